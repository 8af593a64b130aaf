import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from standalone.errors import DataFolderError, DataFolderIsInUseError
from standalone.servers.child import Child, wait_until
from standalone.servers.ownership import FolderLock, start_time
from standalone.servers.ports import listens, port_is_free
from standalone.servers.unprivileged import User, reachable_by
from tests.support.ports import free_port

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def start_python(source: str, log: Path) -> Child:
    return Child.start([sys.executable, "-c", source], log=log, death_signal=signal.SIGKILL)


def start_shell(script: str, log: Path, *, user: User | None = None) -> Child:
    return Child.start(["/bin/sh", "-c", script], log=log, death_signal=signal.SIGKILL, user=user)


def start_parent(program: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a process of its own that starts a child and sleeps."""
    source = (
        "import signal, sys, time; from pathlib import Path\n"
        "from standalone.servers.child import Child\n"
        "from standalone.servers.unprivileged import User\n"
        f"log = Path(sys.argv[1]); {program}; time.sleep(60)"
    )
    return subprocess.Popen([sys.executable, "-c", source, str(log)])


def wait_for_text(log: Path, text: str) -> None:
    assert wait_until(lambda: log.exists() and text in log.read_text(), timeout=10)


def test_a_child_stops_on_the_first_signal(tmp_path: Path) -> None:
    child = start_shell("echo up; exec sleep 60", tmp_path / "log")
    wait_for_text(tmp_path / "log", "up")
    assert child.is_alive
    assert child.stop((signal.SIGTERM, 10)) == -signal.SIGTERM
    assert not child.is_alive


def test_a_child_that_ignores_the_signals_is_killed(tmp_path: Path) -> None:
    child = start_shell("trap '' TERM INT; echo up; while :; do sleep 0.1; done", tmp_path / "log")
    wait_for_text(tmp_path / "log", "up")
    code = child.stop((signal.SIGINT, 0.05), (signal.SIGTERM, 0.05))
    assert code == -signal.SIGKILL


def test_a_child_that_ended_is_reaped_though_nobody_asks(tmp_path: Path) -> None:
    child = start_shell("exit 3", tmp_path / "log")
    assert wait_until(lambda: not Path(f"/proc/{child.pid}").exists(), timeout=10)
    assert child.wait() == 3
    assert child.exit_code == 3


def test_signals_to_an_ended_child_reach_nobody(tmp_path: Path) -> None:
    child = start_shell("exit 0", tmp_path / "log")
    assert child.wait(10) == 0
    child.send(signal.SIGKILL)
    assert child.stop((signal.SIGTERM, 1)) == 0


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    children: list[Child] = []

    def ask() -> None:
        children.append(start_shell("echo up; exec sleep 60", tmp_path / "log"))
        # It is tied to its parent by now; the end of this thread must not count as the parent's.
        wait_for_text(tmp_path / "log", "up")

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert children[0].wait(0.2) is None
    children[0].stop()


def test_the_signal_at_the_parents_death_is_the_chosen_one(tmp_path: Path) -> None:
    """The parent is a process of its own that gets kill -9."""
    script = "trap 'echo told; exit' USR1; echo up; while :; do sleep 0.05; done"
    parent = start_parent(
        f'Child.start(["/bin/sh", "-c", "{script}"], log=log, death_signal=signal.SIGUSR1)',
        tmp_path / "log",
    )
    wait_for_text(tmp_path / "log", "up")
    parent.kill()
    parent.wait()
    wait_for_text(tmp_path / "log", "told")


def test_a_ctrl_c_on_the_terminal_does_not_reach_a_child(tmp_path: Path) -> None:
    child = start_shell("echo up; exec sleep 60", tmp_path / "log")
    wait_for_text(tmp_path / "log", "up")
    assert os.getsid(child.pid) == child.pid
    assert os.getpgid(child.pid) == child.pid
    child.stop()


def ignored_signals(line: str) -> set[int]:
    """Read a SigIgn line of /proc; without the C library's own signals, which are not ours."""
    mask = int(line.split()[1], 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}


def test_a_child_starts_with_a_clean_slate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    child = start_python(
        "import os, signal; print(sorted(os.environ.keys() - {'LC_CTYPE'}), os.getcwd(), "
        "oct(os.umask(0)), signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "import re, pathlib; status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(re.search('SigIgn:.*', status).group())",
        tmp_path / "log",
    )
    assert child.wait(20) == 0
    first, ignored = (tmp_path / "log").read_text().splitlines()
    assert "PGPORT" not in first
    assert first.endswith("/ 0o77 set()")
    # Python itself ignores SIGPIPE and SIGXFSZ and nothing else.
    assert ignored_signals(ignored) == {signal.SIGPIPE, signal.SIGXFSZ}


def test_an_ignored_signal_is_not_handed_on(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        child = start_shell("grep SigIgn /proc/self/status", tmp_path / "log")
        assert child.wait(10) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ignored_signals((tmp_path / "log").read_text()) == set()


def test_a_program_that_cannot_run_says_so_in_the_log(tmp_path: Path) -> None:
    child = Child.start([tmp_path / "missing"], log=tmp_path / "log", death_signal=signal.SIGKILL)
    assert child.wait(10) == 1
    assert "No such file" in (tmp_path / "log").read_text()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_waiting_for_the_end_can_be_cancelled(tmp_path: Path) -> None:
    child = start_shell("exec sleep 60", tmp_path / "log")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.exited(), 0.01)
    assert child.is_alive
    child.send(signal.SIGKILL)
    assert await asyncio.wait_for(child.exited(), 10) == -signal.SIGKILL


@as_root
def test_a_child_of_another_user_has_that_users_groups_only(tmp_path: Path) -> None:
    user = User.unprivileged()
    child = start_shell("id -u; id -g; id -G; id -ru", tmp_path / "log", user=user)
    assert child.wait(10) == 0
    uid, gid, gids, real = (tmp_path / "log").read_text().splitlines()
    assert (uid, real, gid) == (str(user.uid), str(user.uid), str(user.gids[0]))
    assert {int(number) for number in gids.split()} == set(user.gids)


@as_root
def test_a_child_of_another_user_dies_with_its_parent_too(tmp_path: Path) -> None:
    parent = start_parent(
        'Child.start(["/bin/sh", "-c", "echo $$; exec sleep 60"], log=log, '
        "death_signal=signal.SIGTERM, user=User.unprivileged())",
        tmp_path / "log",
    )
    wait_for_text(tmp_path / "log", "\n")
    pid = int((tmp_path / "log").read_text())
    assert start_time(pid) is not None
    parent.kill()
    parent.wait()
    assert wait_until(lambda: start_time(pid) is None, timeout=20)


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    lock = FolderLock.acquire(tmp_path / "lock")
    with pytest.raises(DataFolderIsInUseError, match=f"in use by process {os.getpid()} "):
        FolderLock.acquire(tmp_path / "lock")
    lock.release()
    FolderLock.acquire(tmp_path / "lock").release()


def test_the_next_owner_waits_for_what_the_last_one_has_left_running(tmp_path: Path) -> None:
    lock = FolderLock.acquire(tmp_path / "lock")
    child = Child.start(
        ["/bin/sleep", "60"],
        log=tmp_path / "log",
        death_signal=signal.SIGKILL,
        keep_open=[lock.fileno()],
    )
    lock.release()
    next_owner: list[FolderLock] = []
    thread = threading.Thread(
        target=lambda: next_owner.append(FolderLock.acquire(tmp_path / "lock"))
    )
    thread.start()
    thread.join(0.2)
    assert not next_owner
    child.stop()
    thread.join(10)
    next_owner[0].release()


def test_a_lock_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(DataFolderError, match="lock"):
        FolderLock.acquire(tmp_path / "lock")
    assert (tmp_path / "other").read_text() == "precious"


def test_reachability_names_the_first_closed_folder(open_folder: Path) -> None:
    stranger = User(uid=54321, gids=(54321,), name="stranger")
    inner = open_folder / "a" / "b"
    inner.mkdir(parents=True)
    (open_folder / "a").chmod(0o700)
    assert reachable_by(stranger, inner / "data") == open_folder.resolve() / "a"
    # What the link names counts, not where the link is.
    (open_folder / "link").symlink_to(inner)
    assert reachable_by(stranger, open_folder / "link" / "x") == open_folder.resolve() / "a"
    (open_folder / "a").chmod(0o711)
    (open_folder / "a" / "b").chmod(0o711)
    assert reachable_by(stranger, inner / "not" / "made" / "yet") is None
    # The owner's own bits decide for the owner, even where others may enter.
    (open_folder / "a").chmod(0o611)
    owner = User(uid=os.geteuid() or 1, gids=(1,), name="owner")
    os.chown(open_folder / "a", owner.uid, -1)
    assert reachable_by(owner, inner) == open_folder.resolve() / "a"
    (open_folder / "a").chmod(0o711)


def test_a_port_in_use_is_not_free_and_known_by_its_process(tmp_path: Path) -> None:
    port = free_port()
    assert port_is_free(port)
    server = start_python(
        f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)",
        tmp_path / "log",
    )
    assert wait_until(lambda: listens(server.pid, port), timeout=20)
    assert not port_is_free(port)
    assert not listens(os.getpid(), port)
    server.stop()
    assert port_is_free(port)
