"""What bundles depend on: virtual environments of the process provisioner."""

import asyncio
import fcntl
import hashlib
import os
import re
from pathlib import Path

import pytest

from provisioners.base import (
    ProvisionerError,
    UnrecoverableProvisioningError,
)
from provisioners.code import environments
from provisioners.code.build import find_uv
from provisioners.code.confined import read_facts
from tests.support.harness import eventually_true
from tests.support.provisioners.bundles_in_memory import (
    DEPENDS_ON_TINY,
    PRINTS_TINY,
    PROGRAM,
    Bundles,
    another,
    make_old,
    output_of,
)
from tests.support.provisioners.process_backend import DEPLOYMENT, ProcessBackend, process_ids, run
from tests.support.provisioners.warm_backend import WarmBackend
from tests.support.wheels import TINY, WHEEL, make_wheel


async def test_dependencies_of_each_sort_of_file_are_installed(
    backend: ProcessBackend, bundles: Bundles, code: Path, tmp_path: Path
) -> None:
    # No package of that name is looked for: the SDK is left out.
    sdk_only = {"requirements.txt": b"control_plane.SDK>=9\n", **PROGRAM, "program.py": b""}
    (tmp_path / "vendor").mkdir()
    (tmp_path / WHEEL).write_bytes(make_wheel("tiny", 7))
    pyproject = f"""
[project]
name = "shop"
version = "1"
dependencies = ["tiny @ file://{tmp_path}/{WHEEL}", "control-plane-sdk"]
"""
    divided = {"requirements.txt": b"control-plane-sdk\n-r more.txt\n"}
    outputs = [
        await output_of(backend, bundles.add(files))
        for files in (
            DEPENDS_ON_TINY,
            sdk_only,
            {**PRINTS_TINY, "pyproject.toml": pyproject.encode()},
            {**DEPENDS_ON_TINY, **divided, "more.txt": f"./{WHEEL}\n".encode()},
        )
    ]
    assert outputs == ["42", "", "7", "42"]
    assert len(list((code / "environments").glob("*/used"))) == 3
    # Workers cannot write there, and would compile it each time.
    compiled = (code / "environments").glob("*/venv/lib/*/site-packages/__pycache__/tiny.*.pyc")
    assert len(list(compiled)) == 3


async def test_without_uv_pip_installs_where_builds_are_allowed(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    image = bundles.add(DEPENDS_ON_TINY)
    provisioner = await another(backend, bundles, uv=None)
    try:
        # It would build what a wheel refers to by an address, also with `--only-binary :all:`.
        with pytest.raises(UnrecoverableProvisioningError, match="pip cannot be kept from running"):
            await provisioner.prepare(backend.function_for(image))
    finally:
        await provisioner.close()
    provisioner = await another(backend, bundles, uv=None, allow_builds=True)
    try:
        await provisioner.prepare(backend.function_for(image))
        with pytest.raises(UnrecoverableProvisioningError, match="uv is not installed"):
            await provisioner.prepare(
                backend.function_for(
                    bundles.add({**PRINTS_TINY, "pyproject.toml": b"", "uv.lock": b""})
                )
            )
    finally:
        await provisioner.close()
    # The same environment serves whoever comes next, with another installer too.
    bundles.stored.clear()
    assert await output_of(backend, image) == "42"


async def test_what_cannot_be_installed_fails_for_good_with_the_reason(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    image = bundles.add({**PRINTS_TINY, "requirements.txt": b"./vendor/none-1.0-py3-none-any.whl"})
    with pytest.raises(UnrecoverableProvisioningError) as caught:
        await backend.provisioner.prepare(backend.function_for(image))
    # In one line: nothing is said twice, and no folder of the server is named.
    assert str(caught.value) == (
        "The dependencies in requirements.txt cannot be installed: Distribution not found at: "
        "vendor/none-1.0-py3-none-any.whl"
    )
    # Another function of the version is told the same, at once.
    with pytest.raises(UnrecoverableProvisioningError) as again:
        await backend.provisioner.prepare(backend.function_for(image))
    assert str(again.value) == str(caught.value)


async def test_the_reason_comes_first_and_what_a_build_has_written_after_it(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    """A build that fails, and a version that there is not: uv gives the reason as a cause."""
    backends = b"[build-system]\nrequires = []\nbuild-backend = 'broken'\nbackend-path = ['.']\n"
    broken = {
        "source/pyproject.toml": backends + b"[project]\nname = 'source'\nversion = '1'\n",
        "source/broken.py": b"print('compiling')\nraise SystemExit('no compiler')\n",
    }
    for files, text, after in (
        (
            {"requirements.txt": b"./source\n", **broken},
            "cannot be installed: .*build backend returned an error: Call to .* failed",
            "no compiler",
        ),
        (
            {"requirements.txt": f"./{WHEEL}\ntiny==2.0\n".encode(), WHEEL: TINY},
            "cannot be installed: No solution found when resolving dependencies: Because .*tiny",
            None,
        ),
    ):
        image = bundles.add({**PRINTS_TINY, **files})
        provisioner = await another(backend, bundles, allow_builds=True)
        with pytest.raises(UnrecoverableProvisioningError) as caught:
            await provisioner.prepare(backend.function_for(image))
        await provisioner.close()
        first, *rest = str(caught.value).splitlines()
        assert re.search(text, first)
        assert any(after in line for line in rest) if after else not rest
        assert len(str(caught.value)) < 2000


async def test_an_index_that_does_not_answer_is_tried_again(
    backend: ProcessBackend, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    image = bundles.add({**PRINTS_TINY, "requirements.txt": b"no-such-package-of-ours==1.0"})
    with pytest.raises(ProvisionerError) as caught:
        await backend.provisioner.prepare(backend.function_for(image))
    assert not isinstance(caught.value, UnrecoverableProvisioningError)
    assert "127.0.0.1:9" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_an_installation_that_takes_too_long_is_ended(
    backend: ProcessBackend, bundles: Bundles, tmp_path: Path
) -> None:
    stuck = tmp_path / "uv"
    stuck.write_text("#!/bin/sh\necho still busy\nsleep 60 &\nwait\n")
    stuck.chmod(0o755)
    provisioner = await another(backend, bundles, uv=stuck, build_seconds=1)
    try:
        with pytest.raises(UnrecoverableProvisioningError) as caught:
            await provisioner.prepare(backend.function_for(bundles.add(DEPENDS_ON_TINY)))
    finally:
        await provisioner.close()
    assert str(caught.value) == (
        "The dependencies in requirements.txt were not installed within 1 seconds\nstill busy"
    )


def is_open_here(file: Path) -> bool:
    links = list(Path("/proc/self/fd").iterdir())
    return any(os.path.lexists(link) and os.path.realpath(link) == str(file) for link in links)


def the_one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def waiting_uv(folder: Path) -> Path:
    """An installer that waits for the file `go`, and notes that it was started."""
    program = folder / "uv"
    program.write_text(
        f"""#!/bin/sh
echo $$ >> {folder}/started
until [ -e {folder}/go ]; do sleep 0.02; done
exec {find_uv()} "$@"
"""
    )
    program.chmod(0o755)
    return program


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def test_a_preparation_that_is_cancelled_goes_on_for_the_next_one(
    backend: ProcessBackend, bundles: Bundles, tmp_path: Path
) -> None:
    provisioner = await another(backend, bundles, uv=waiting_uv(tmp_path))
    function = backend.function_for(bundles.add(DEPENDS_ON_TINY))
    try:
        first = asyncio.create_task(provisioner.prepare(function))
        await eventually_true(lambda: len(lines_of(tmp_path / "started")) == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(provisioner.prepare(function))
        (tmp_path / "go").touch()
        await second
    finally:
        await provisioner.close()
    assert len(bundles.opened) == 1
    # `uv venv` and `uv pip install`, once each.
    assert len(lines_of(tmp_path / "started")) == 2


async def test_what_a_stopped_temporal_worker_has_begun_is_begun_anew(
    backend: ProcessBackend, bundles: Bundles, code: Path, tmp_path: Path
) -> None:
    provisioner = await another(backend, bundles, uv=waiting_uv(tmp_path))
    image = bundles.add(DEPENDS_ON_TINY)
    task = asyncio.create_task(provisioner.prepare(backend.function_for(image)))
    await eventually_true(lambda: len(lines_of(tmp_path / "started")) == 1)
    (pid,) = map(int, lines_of(tmp_path / "started"))
    assert pid in process_ids()
    await provisioner.close()
    await asyncio.gather(task, return_exceptions=True)
    assert pid not in process_ids()
    half = the_one(code, "environments/*/")
    (half / "venv").mkdir()
    assert await output_of(backend, image) == "42"


async def test_installing_waits_for_the_end_of_another_ones_installer(
    backend: ProcessBackend, bundles: Bundles, code: Path, tmp_path: Path
) -> None:
    """As after a kill -9 of a Temporal worker, whose installer goes on with the lock."""
    image = bundles.add(DEPENDS_ON_TINY)
    await backend.provisioner.prepare(backend.function_for(image))
    mark = the_one(code, "environments/*/used")
    mark.unlink()
    lock = the_one(code, "environments/*.lock")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        installer = await asyncio.create_subprocess_exec("cat", stdin=-1, pass_fds=[held.fileno()])
    (tmp_path / "go").touch()
    provisioner = await another(backend, bundles, uv=waiting_uv(tmp_path))
    try:
        task = asyncio.create_task(provisioner.prepare(backend.function_for(image)))
        # Between opening the file and trying to lock it nothing else gets its turn.
        await eventually_true(lambda: is_open_here(lock))
        assert lines_of(tmp_path / "started") == []
        assert installer.stdin is not None
        installer.stdin.close()
        await installer.wait()
        await task
    finally:
        await provisioner.close()
    assert len(lines_of(tmp_path / "started")) == 2


async def test_another_ones_installer_is_not_waited_for_without_end(
    backend: ProcessBackend,
    bundles: Bundles,
    code: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = bundles.add(DEPENDS_ON_TINY)
    await backend.provisioner.prepare(backend.function_for(image))
    the_one(code, "environments/*/used").unlink()
    lock = the_one(code, "environments/*.lock")
    monkeypatch.setattr(environments, "_MARGIN_SECONDS", 0)
    provisioner = await another(backend, bundles, build_seconds=0.2)
    try:
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(ProvisionerError, match=str(lock)):
                await provisioner.prepare(backend.function_for(image))
    finally:
        await provisioner.close()


async def test_installers_see_no_secret_of_the_server_and_nothing_of_each_other(
    backend: ProcessBackend,
    bundles: Bundles,
    code: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        *("CONTROL_PLANE_API_KEY", "POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD"),
        *("UV_PUBLISH_TOKEN", "PIP_TOKEN", "UV_NO_BUILD", "PYTHONPATH", "UV_CACHE_DIR", "USER"),
    ):
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("UV_INDEX_OURS_PASSWORD", "for the index")
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    spy = tmp_path / "uv"
    spy.write_text(
        f"""#!/bin/sh
env >> {tmp_path}/seen
echo x > $HOME/left
ls $HOME >> {tmp_path}/home
exit 1
"""
    )
    spy.chmod(0o755)
    provisioner = await another(backend, bundles, uv=spy)
    try:
        with pytest.raises(UnrecoverableProvisioningError):
            await provisioner.prepare(backend.function_for(bundles.add(DEPENDS_ON_TINY)))
    finally:
        await provisioner.close()
    seen = lines_of(tmp_path / "seen")
    assert not any("hunter2" in line for line in seen)
    assert {"UV_INDEX_OURS_PASSWORD=for the index", "https_proxy=http://proxy.example"} < {*seen}
    home = the_one(code, "environments/*/") / "home"
    assert {f"HOME={home}", f"TMPDIR={home}", f"UV_CACHE_DIR={code}/uv-cache"} < {*seen}
    assert lines_of(tmp_path / "home") == ["left"]
    assert not home.exists()


async def test_what_is_not_used_for_long_is_removed_at_the_next_start(
    backend: ProcessBackend, bundles: Bundles, code: Path
) -> None:
    old, used = bundles.add(DEPENDS_ON_TINY), bundles.add({**PROGRAM, "program.py": b""})
    for image in (old, used):
        await backend.provisioner.prepare(backend.function_for(image))
    make_old(code)
    await output_of(backend, used)
    await (await another(backend, bundles)).close()
    assert [path.name for path in (code / "bundles").iterdir()] == [used[len("bundle://") :]]
    assert list((code / "environments").glob("*/")) == []
    assert await output_of(backend, old) == "42"


async def test_a_lock_of_uv_is_installed_as_it_stands(
    backend: ProcessBackend, bundles: Bundles
) -> None:
    project = f"""
[project]
name = "shop"
version = "1"
requires-python = ">=3.11"
dependencies = ["tiny"]

[tool.uv.sources]
tiny = {{ path = "{WHEEL}" }}
"""
    digest = hashlib.sha256(TINY).hexdigest()
    lock = f"""
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "shop"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "tiny" }}]

[package.metadata]
requires-dist = [{{ name = "tiny", path = "{WHEEL}" }}]

[[package]]
name = "tiny"
version = "1.0"
source = {{ path = "{WHEEL}" }}
wheels = [
    {{ filename = "tiny-1.0-py3-none-any.whl", hash = "sha256:{digest}" }},
]
"""
    files = {WHEEL: TINY, "pyproject.toml": project.encode(), "uv.lock": lock.encode()}
    assert await output_of(backend, bundles.add({**PRINTS_TINY, **files})) == "42"
    wrong = lock.replace(digest, "0" * 64).encode()
    image = bundles.add({**PRINTS_TINY, **files, "uv.lock": wrong})
    with pytest.raises(UnrecoverableProvisioningError, match=r"uv\.lock cannot be installed"):
        await backend.provisioner.prepare(backend.function_for(image))


def test_a_list_that_refers_to_the_bundle_has_an_environment_for_each_bundle(
    tmp_path: Path,
) -> None:
    requirements = tmp_path / "requirements.txt"

    def digest(text: str, bundle: str) -> str | None:
        requirements.write_text(text)
        found = read_facts(tmp_path, dependencies=True).dependencies
        return None if found is None else found.digest(bundle)

    plain = "httpx[http2]>=0.27 ; python_version > '3' \\\n  --hash=sha256:aa # why\n"
    assert digest(plain, "one") == digest(f"# moved\n\n{plain}", "other") is not None
    assert digest(plain, "one") != digest("httpx>=0.28", "one")
    (tmp_path / "more.txt").write_text("./vendor/x.whl\n")
    (tmp_path / "plain.txt").write_text("-r plain.txt\nhttpx>=0.27\n-c limits.txt")
    (tmp_path / "limits.txt").write_text("anyio<9 # why\n")
    assert digest("-r plain.txt", "one") == digest("-r plain.txt", "other") is not None
    for line in (
        "-r more.txt",
        "./vendor/x",
        "x @ file:///x",
        "-e .",
        "vendor/x.whl",
        "x-1-py3-none-any.whl",
    ):
        assert digest(line, "one") != digest(line, "other")
    assert digest("# nothing\n\n", "one") is None
    assert digest("control-plane-sdk[x]\n", "one") is None


async def test_warm_workers_have_the_bundle_s_environment(tmp_path: Path, bundles: Bundles) -> None:
    backend = WarmBackend(tmp_path)
    await backend.provisioner.start(DEPLOYMENT, bundles)
    image = bundles.add(
        {
            **DEPENDS_ON_TINY,
            "control-plane.toml": b"warm = 1",
            "main.py": b"import sys, tiny\ndef function(): print(tiny.value, sys.prefix)",
        }
    )
    project = await backend.warm_first.project_of(backend.request_for(image))
    requests = [backend.request_for(image) for _ in range(2)]

    outputs = [(await run(backend, request))[1] for request in requests]

    assert outputs == [[f"42 {project.environment_folder}"]] * 2
    await backend.close()
