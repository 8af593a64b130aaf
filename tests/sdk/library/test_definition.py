"""`@function`: what it makes of a function, and what it refuses."""

import asyncio
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from control_plane import (
    Client,
    ConfigurationError,
    DefinitionError,
    NotInFunctionError,
    current,
    function,
    progress,
)

from core.contract.functions import FunctionSpec
from tests.support.sdk.project import main
from tests.support.sdk.workers import SDK


def test_plain_call_is_local_and_keeps_what_the_function_was() -> None:
    assert main.square(3) == 9
    assert asyncio.run(main.greet("Ada")) == "Hello, Ada!"
    assert main.join.__name__ == "join"
    assert main.join.__wrapped__("a", times=2) == "a-a-"  # type: ignore[attr-defined]  # as functools gives it
    assert pickle.loads(pickle.dumps(main.square)) is main.square  # noqa: S301 - our own


def test_specs_are_data_that_the_server_accepts() -> None:
    @function(
        cpu=2,
        memory="1536 MiB",
        timeout=timedelta(minutes=2),
        max_retries=3,
        max_concurrency=7,
        retry_initial_interval=timedelta(seconds=5),
        retry_backoff_coefficient=2,
        retry_maximum_interval=60,
        image="image:2",
    )
    def local() -> None: ...

    assert local.spec == {
        "function_name": f"{__name__}:{local.__qualname__}",
        "docker_image_override": "image:2",
        "resource_spec": {"virtual_cpus": 2.0, "memory_gbs": 1.5, "max_concurrency": 7},
        "execution_spec": {"max_retries": 3, "timeout_seconds": 120},
        "retry_spec": {
            "initial_interval_seconds": 5,
            "backoff_coefficient": 2.0,
            "maximum_interval_seconds": 60,
        },
    }
    FunctionSpec.model_validate(local.spec)
    assert "retry_spec" not in main.square.spec
    FunctionSpec.model_validate(main.square.spec)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"cpu": 17}, "cpu is 17: it must not exceed 16"),
        ({"cpu": 0}, "cpu is 0: it must be more than 0"),
        ({"cpu": "1"}, "cpu is '1': it must be a number"),
        ({"cpu": float("nan")}, "cpu is nan: it must be a number"),
        ({"memory": "65 GiB"}, "memory is '65 GiB': it must not exceed 64 GiB"),
        ({"memory": 512}, r"memory is 512: it must be a text such as '512 MiB'"),
        ({"memory": "much GiB"}, "memory is 'much GiB': it must be a text"),
        ({"memory": "0 MB"}, "memory is '0 MB': it must be more than 0"),
        (
            {"timeout": timedelta(days=2)},
            "timeout is 172800 seconds: it must be between 1 and 86,4",
        ),
        ({"timeout": 1.5}, r"timeout is 1\.5 seconds: it must be whole seconds"),
        ({"timeout": "1"}, "timeout is '1': it must be a timedelta, or seconds"),
        ({"max_retries": 51}, "max_retries is 51: it must be between 0 and 50"),
        ({"max_retries": True}, "max_retries is True: it must be a whole number"),
        ({"max_concurrency": 0}, "max_concurrency is 0: it must be between 1 and 100"),
        ({"retry_initial_interval": 0}, "retry_initial_interval is 0 seconds"),
        ({"retry_backoff_coefficient": 0.5}, r"retry_backoff_coefficient is 0\.5: it must be 1 or"),
        (
            {"retry_initial_interval": 9, "retry_maximum_interval": 8},
            "retry_maximum_interval is 8 seconds: it must not be less than retry_initial_interval",
        ),
        ({"image": ""}, "image must be a text of 1 to 1,023 characters"),
    ],
)
def test_settings_out_of_their_limits_are_refused_where_they_stand(
    setting: dict[str, Any], text: str
) -> None:
    with pytest.raises(DefinitionError, match=text):
        function(**setting)

    def f() -> None: ...

    FunctionSpec.model_validate(function(cpu=16, memory="64 GiB", timeout=86_400)(f).spec)


@pytest.mark.parametrize("thing", [int, 3, main.square])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(DefinitionError):
        function(thing)


def test_names_are_those_that_the_runner_looks_up(tmp_path: Path) -> None:
    assert main.square.name == "tests.support.sdk.project.main:square"
    code = "from control_plane import function\n@function\ndef f(): ...\nprint(f.name)\n"
    for file in ("main.py", "other.py"):
        (tmp_path / file).write_text(code)
    environment = {"PYTHONPATH": f"{SDK}:{tmp_path}"}

    def said(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        ).stdout.strip()

    assert said(str(tmp_path / "main.py")) == "f"
    assert said("-c", "import main") == "f"
    assert said(str(tmp_path / "other.py")) == "other:f"
    assert said("-m", "other") == "other:f"
    assert said("-c", "import other") == "other:f"


def test_outside_of_a_function_there_is_no_call_and_progress_does_nothing() -> None:
    with pytest.raises(NotInFunctionError, match="there is no invocation here"):
        current()
    progress(1, 2, anything={1, 2})


def test_project_must_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROJECT_NAME", "API_URL", "API_KEY"):
        monkeypatch.delenv(f"CONTROL_PLANE_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    with pytest.raises(ConfigurationError, match="Which server"):
        main.square.start(3)
    with Client("http://127.0.0.1:1", "key") as client:
        square = main.square.options(client=client)
        with pytest.raises(ConfigurationError, match=r"In which project is .*main:square deployed"):
            square.start(3)
        # Whoever names all of it asks no server.
        call = square.options(project="p", version="ver-1").invocation("inv-1")
    assert (call.path.project_name, call.path.version_id) == ("p", "ver-1")


IMPORTS = """
import sys, time
began = time.perf_counter()
import control_plane
print(time.perf_counter() - began)
from control_plane import current, function, progress
modules = {name.partition(".")[0] for name in sys.modules}
print(sorted(modules - {"__main__"} - set(sys.stdlib_module_names)))
print(sorted({"asyncio", "httpx", "threading", "inspect", "dataclasses"} & modules))
"""


def test_import_for_workers_loads_nothing_heavy() -> None:
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys\nsys.path.append({str(SDK)!r})\n{IMPORTS}"],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, foreign, heavy = answer.stdout.splitlines()
    assert float(seconds) < 1
    assert (foreign, heavy) == ("['control_plane']", "[]")
