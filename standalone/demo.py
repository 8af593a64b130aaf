"""The `demo` command: the whole system at work in a temporary folder, in under a minute."""

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from control_plane._console.foreign import log_lines
from control_plane._console.output import echo, has_colours
from control_plane._console.terminal import console, words
from rich.table import Table

from runtime.shutdown import stop_on_signals
from standalone.errors import StandaloneError
from standalone.options import StackOptions
from standalone.stack import Stack, running_stack

Json = dict[str, Any]

_PROJECT = "hello"
_EXAMPLE = Path(__file__).parent.parent / "examples" / "hello"
_LONGEST_SECONDS = 50
_ENDING_SECONDS = 30
_INTERRUPTED = 130
"""Exit code, as shells give it for a program that Ctrl-C has ended."""


@dataclass
class _Call:
    """One invocation of the demo: what is called, what must come of it, what was seen."""

    function: str
    argument: object
    expected_phase: str
    shows: str
    max_retries: int = 0
    timeout_seconds: int = 30
    path: str = ""
    seen: Json = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)


async def run_demo(*, keep: bool, temporal_open: bool) -> int:
    """Run the demo; returns 0 if every invocation ended as it must, 130 if it was interrupted.

    Args:
        keep: leave the stack running afterwards, until SIGINT or SIGTERM.
        temporal_open: see `StackOptions`.

    Raises:
        StandaloneError: the stack cannot be started.
    """
    stopping = asyncio.create_task(stop_on_signals().wait())
    demo = asyncio.create_task(_run(keep=keep, temporal_open=temporal_open))
    await asyncio.wait([demo, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    demo.cancel()
    try:
        return await demo
    except asyncio.CancelledError:
        return _INTERRUPTED


async def _run(*, keep: bool, temporal_open: bool) -> int:
    if not _EXAMPLE.is_dir():
        raise StandaloneError(f"The example project {_EXAMPLE} is not there")
    with tempfile.TemporaryDirectory(
        prefix="control-plane-demo-", ignore_cleanup_errors=True
    ) as folder:
        began = time.monotonic()
        echo("Starting Postgres, Temporal, the API and a Temporal worker ...")
        options = StackOptions(
            data_folder=_make_data_folder(Path(folder)),
            api_port=0,
            durable=False,
            temporal_open=temporal_open,
            is_for_others=False,
        )
        async with running_stack(options) as stack:
            echo(f"... ready after {time.monotonic() - began:.1f} s, API {stack.api_url}")
            project = Path(shutil.copytree(_EXAMPLE, Path(folder) / "project"))
            calls = _calls(_make_shared_folder(Path(folder)) / "attempts")
            async with _api(stack) as http, _ending_all(http):
                await _deploy(http, project, calls)
                await _watch(http, calls)
                await _print_logs(http, calls)
                good = _print_table(stack, calls)
                echo(f"Done after {time.monotonic() - began:.1f} s.")
                if keep:
                    key = stack.api_key_file
                    echo(f"The stack goes on. API key: {key}. Ctrl-C ends it.")
                    # The order to stop is what it ends by, and no interruption of anything.
                    with suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
    return 0 if good else 1


@asynccontextmanager
async def _ending_all(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """End at the end what still runs: nothing could find it once the folder is deleted."""
    try:
        yield
    finally:
        with suppress(httpx.HTTPError, StandaloneError, TimeoutError):
            async with asyncio.timeout(_ENDING_SECONDS):
                await _delete_projects(http)


async def _delete_projects(http: httpx.AsyncClient) -> None:
    projects = (await _request(http, "GET", "/projects"))["projects"]
    for project in projects:
        await _request(http, "DELETE", f"/projects/{quote(project['project_name'], safe='')}")
    while projects:
        await asyncio.sleep(0.05)
        projects = (await _request(http, "GET", "/projects"))["projects"]


def _make_shared_folder(folder: Path) -> Path:
    """Make a folder that functions write to, which are another user than root."""
    folder.chmod(0o711)
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared


def _make_data_folder(folder: Path) -> Path:
    # The embedded Postgres may run as another user, who must get through to its own folder.
    folder.chmod(0o711)
    return folder / "data"


def _calls(state_file: Path) -> list[_Call]:
    return [
        _Call("greet", {"name": "Ada"}, "SUCCEEDED", "a plain call"),
        _Call(
            "flaky",
            {"state_file": str(state_file)},
            "SUCCEEDED",
            "fails twice, succeeds on its third execution",
            max_retries=3,
        ),
        _Call("count_up", {"to": 5}, "SUCCEEDED", "a generator that yields its progress"),
        _Call("sleepy", {"seconds": 60}, "TIMED_OUT", "runs past its timeout", timeout_seconds=2),
    ]


@asynccontextmanager
async def _api(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {stack.api_key.get_secret_value()}"}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=10) as http:
        yield http


async def _request(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> Json:  # noqa: ANN401 - httpx's own options
    answer = await http.request(method, path, **options)
    if answer.is_error:
        raise StandaloneError(f"{method} {path} answered {answer.status_code}: {answer.text}")
    body: Json = answer.json()
    return body


async def _deploy(http: httpx.AsyncClient, project: Path, calls: list[_Call]) -> None:
    await _request(http, "PUT", f"/projects/{_PROJECT}")
    version = await _request(
        http,
        "POST",
        f"/projects/{_PROJECT}/versions",
        json={
            "default_docker_image": project.as_uri(),
            "functions": [
                {
                    "function_name": call.function,
                    "resource_spec": {
                        "virtual_cpus": 1,
                        "memory_gbs": 0.5,
                        "max_concurrency": 10,
                    },
                    "execution_spec": {
                        "max_retries": call.max_retries,
                        "timeout_seconds": call.timeout_seconds,
                    },
                }
                for call in calls
            ],
        },
    )
    version_id = version["version_id"]
    echo(f"Deployed {_EXAMPLE.name}/ as project {_PROJECT}, version {version_id}")
    for call in calls:
        base = f"/projects/{_PROJECT}/versions/{version_id}/functions/{call.function}/invocations"
        call.seen = await _request(http, "POST", base, json={"input": json.dumps(call.argument)})
        call.path = f"{base}/{call.seen['invocation_id']}"
        echo(f"Called {call.function}({_arguments(call.argument)}): {call.shows}")


def _arguments(argument: object) -> str:
    if not isinstance(argument, dict):
        return json.dumps(argument)
    shown = {n: Path(v).name if n == "state_file" else v for n, v in argument.items()}
    return ", ".join(f"{name}={value!r}" for name, value in shown.items())


async def _watch(http: httpx.AsyncClient, calls: list[_Call]) -> None:
    began = time.monotonic()
    echo("")
    while any(call.seen["invocation_status"] != "TERMINATED" for call in calls):
        if time.monotonic() - began > _LONGEST_SECONDS:
            raise StandaloneError(f"not all invocations ended within {_LONGEST_SECONDS} s")
        for call in calls:
            if call.seen["invocation_status"] == "TERMINATED":
                continue
            call.seen = await _request(http, "GET", call.path)
            for line in _news(call):
                seconds = time.monotonic() - began
                echo(f"{seconds:5.1f} s  {call.function:<9} {line}")
        await asyncio.sleep(0.1)
    echo("")


def _news(call: _Call) -> list[str]:
    """Give what has happened since the last look, each thing once."""
    lines = []
    for execution in call.seen["executions"]:
        attempt = f"execution {execution['attempt']}"
        if execution["execution_start_time"] is not None:
            lines.append(f"{attempt} runs")
        if execution["output"] is not None and execution["outcome"] is None:
            lines.append(f"{attempt} progress {execution['output']}")
        if execution["termination_signal_time"] is not None:
            lines.append(f"{attempt} is told to stop")
        if execution["worker_status"] == "TERMINATED":
            error = (execution["error_message"] or "").partition("\n")[0]
            lines.append(f"{attempt} ended: {execution['cause']} {error}".rstrip())
    if call.seen["invocation_status"] == "TERMINATED":
        lines.append(f"{call.seen['phase']}")
    new = [line for line in lines if line not in call.printed]
    call.printed += new
    return new


async def _print_logs(http: httpx.AsyncClient, calls: list[_Call]) -> None:
    echo("What the workers printed:")
    for call in calls:
        for execution in call.seen["executions"]:
            path = f"{call.path}/executions/{execution['execution_id']}/logs"
            logs = await _request(http, "GET", path)
            for line in [line for line in logs["log_lines"] if line.strip()][:1]:
                (shown, *_) = log_lines(line, colours=has_colours(sys.stdout))
                echo(f"  {call.function} #{execution['attempt']}: ", shown)
    echo("")


def _print_table(stack: Stack, calls: list[_Call]) -> bool:
    table = Table("function", "phase", "#", "cause", "result or error", title="Invocations")
    for call in calls:
        phase = call.seen["phase"]
        colour = "green" if phase == call.expected_phase else "red"
        for execution in call.seen["executions"]:
            first = execution["attempt"] == 1
            text = execution["output"] or execution["error_message"] or ""
            table.add_row(
                words(call.function) if first else "",
                words(phase, colour) if first else "",
                str(execution["attempt"]),
                words(execution["cause"] or ""),
                words(text.partition("\n")[0][:60]),
            )
    console().print(table)
    if stack.temporal_ui_link is not None:
        echo("In Temporal's web UI (each execution is a run; --keep keeps it open):")
        for call in calls:
            echo(f"  {call.function:<9} {call.seen['temporal_url']}")
    return all(call.seen["phase"] == call.expected_phase for call in calls)
