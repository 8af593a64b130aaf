"""Where cgroups for workers go, on layouts that this machine may not have."""

from pathlib import Path

import pytest

from provisioners.process.cgroups import ParentCgroup, candidates


def unified(root: Path, *, cgroup: str, controllers: str) -> str:
    """A stand-in for a version 2 tree; gives its line of mountinfo."""
    folder = root / cgroup.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.controllers").write_text(controllers)
    (folder / "cgroup.subtree_control").write_text("")
    return f"30 23 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_2(tmp_path: Path) -> None:
    mountinfo = unified(
        tmp_path, cgroup="/system.slice/us", controllers="cpuset cpu io memory pids"
    )

    found = list(candidates(mountinfo, "0::/system.slice/us\n", "stack"))

    own = tmp_path / "system.slice" / "us"
    assert found == [ParentCgroup(own / "stack", 2, ("memory", "cpu", "pids"))]
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_version_2_beside_us_if_our_own_offers_nothing(tmp_path: Path) -> None:
    unified(tmp_path, cgroup="/user/app", controllers="cpu memory")
    mountinfo = unified(tmp_path, cgroup="/user/app/us", controllers="")

    found = list(candidates(mountinfo, "0::/user/app/us\n", "stack"))

    assert found == [ParentCgroup(tmp_path / "user" / "app" / "stack", 2, ("memory", "cpu"))]


@pytest.mark.parametrize("controllers", ["", "memory pids", "cpu io"])
def test_version_2_without_memory_or_cpu(tmp_path: Path, controllers: str) -> None:
    mountinfo = unified(tmp_path, cgroup="/", controllers=controllers)

    assert list(candidates(mountinfo, "0::/\n", "stack")) == []


def test_version_1_in_a_container_that_sees_its_part_of_the_tree() -> None:
    mountinfo = (
        "40 39 0:30 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "41 39 0:31 /docker/abc /sys/fs/cgroup/memory rw master:5 - cgroup cgroup rw,memory\n"
        "42 39 0:32 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
        "43 39 0:33 / /home rw - ext4 /dev/vda rw\n"
    )
    own = "4:memory:/docker/abc/us\n3:cpu,cpuacct:/docker/abc\n2:freezer:/\n"

    assert list(candidates(mountinfo, own, "stack")) == [
        ParentCgroup(Path("/sys/fs/cgroup/cpu,cpuacct/stack"), 1, ("cpu",)),
        ParentCgroup(Path("/sys/fs/cgroup/memory/us/stack"), 1, ("memory",)),
    ]
