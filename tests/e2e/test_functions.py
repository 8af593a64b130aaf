"""Functions of a project folder, called over HTTP, run by local processes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import function_spec
from tests.support.repository import ROOT
from tests.support.stack.caller import Version
from tests.support.stack.processes import (
    Json,
    processes_that_mention,
    until_no_process_mentions,
    wait_for,
)
from tests.support.stack.stack import PROJECT, Stack


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Version:
    names = ("greet", "echo", "fail", "progress", "add", "talk", "not_json", "until_told_to_stop")
    return stack.caller.deploy(
        PROJECT,
        *(function_spec(name) for name in names),
        function_spec("flaky", retries=3),
    )


def test_a_function_succeeds_and_its_worker_leaves_nothing(stack: Stack, shop: Version) -> None:
    call = shop.invoke("greet", {"name": "Ada"})
    assert call.result() == "Hello, Ada!"
    (execution,) = call.get()["executions"]
    assert execution["outcome"] == "SUCCEEDED"
    assert execution["worker_status"] == "TERMINATED"
    assert execution["worker"]["exit_code"] == 0
    folder = stack.worker_folder(execution["execution_id"]).path
    until_no_process_mentions(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "arguments", "keywords"),
    [
        ('{"a": 1, "b": null}', [], {"a": 1, "b": None}),
        ('[1, "two", [3]]', [1, "two", [3]], {}),
        ("null", [], {}),
        ("", [], {}),
        ('"ä\\u2028"', ["ä\u2028"], {}),
        ("-1.5e3", [-1500.0], {}),
        ("false", [False], {}),
    ],
)
def test_json_of_every_shape_becomes_arguments(
    shop: Version, text: str, arguments: list[object], keywords: Json
) -> None:
    seen = shop.invoke_text("echo", text).result()
    assert seen == {"arguments": arguments, "keywords": keywords}


def test_input_that_is_not_json_is_a_clear_error(shop: Version) -> None:
    (execution,) = shop.invoke_text("echo", "{name: Ada}").until_over()["executions"]
    assert execution["outcome"] == "FAILED"
    assert execution["error_message"].startswith("InputError: The input is not JSON")


def test_output_that_is_not_json_is_a_clear_error(shop: Version) -> None:
    (execution,) = shop.invoke("not_json").until_over()["executions"]
    assert execution["outcome"] == "FAILED"
    first_line = execution["error_message"].splitlines()[0]
    assert first_line == ("OutputError: The return value is not JSON: $.when is of the type set")


def test_a_user_error_is_reported_with_its_traceback(shop: Version) -> None:
    call = shop.invoke("fail", {"text": "no such flavour"})
    over = call.until_over()
    (execution,) = over["executions"]
    assert (over["phase"], execution["cause"]) == ("FAILED", "user_error")
    assert execution["worker"]["exit_code"] == 1
    for text in (execution["error_message"], "\n".join(call.lines(execution))):
        assert "ValueError: no such flavour" in text
        assert 'main.py", line' in text
        assert "in fail" in text
    assert call.lines(execution)[0] == "about to fail"


def test_a_generators_progress_is_visible_while_it_runs(shop: Version, gate: Path) -> None:
    call = shop.invoke("progress", str(gate))
    seen = call.until(lambda s: s["executions"] and s["executions"][0]["output"])
    (execution,) = seen["executions"]
    assert (execution["output"], execution["outcome"]) == ('{"step": 1}', None)
    assert seen["phase"] == "RUNNING"
    gate.touch()
    assert call.result() == {"step": 2}


def test_an_async_function_is_run(shop: Version) -> None:
    assert shop.invoke("add", [2, 3]).result() == 5


def test_a_failing_function_is_retried_until_it_succeeds(shop: Version, tmp_path: Path) -> None:
    call = shop.invoke("flaky", str(tmp_path / "counter"))
    assert call.result() == "attempt 3"
    executions = call.get()["executions"]
    assert [e["outcome"] for e in executions] == ["FAILED", "FAILED", "SUCCEEDED"]
    assert [e["attempt"] for e in executions] == [1, 2, 3]


def test_lines_are_readable_while_it_runs_and_after_the_worker_is_gone(
    shop: Version, gate: Path
) -> None:
    call = shop.invoke("talk", str(gate))
    execution = call.until_started()
    assert wait_for(lambda: call.lines(execution)) == ["before the gate"]
    assert call.get()["phase"] == "RUNNING"
    gate.touch()
    assert call.result() is None
    assert call.lines(execution) == ["before the gate", "after the gate"]


def test_a_timeout_lets_the_function_clean_up(stack: Stack, shop: Version, tmp_path: Path) -> None:
    del shop
    cleaned_up = tmp_path / "cleaned-up"
    # On a busy machine the function may not be entered within two seconds: then with more.
    for timeout in (2, 8, 32):
        spec = function_spec("until_told_to_stop", timeout=timeout, retries=3)
        brief = stack.caller.deploy(PROJECT, spec)
        over = brief.invoke("until_told_to_stop", str(cleaned_up)).until_over()
        if cleaned_up.exists():
            break
    (execution,) = over["executions"]
    assert cleaned_up.read_text() == "InvocationTimedOut"
    assert over["phase"] == "TIMED_OUT"
    assert (execution["outcome"], execution["cause"]) == ("ABORTED", "timed_out")
    until_no_process_mentions(stack.worker_folder(execution["execution_id"]).path)


def test_a_cancel_lets_the_function_clean_up_and_leaves_no_process(
    stack: Stack, shop: Version, tmp_path: Path
) -> None:
    cleaned_up = tmp_path / "cleaned-up"
    call = shop.invoke("until_told_to_stop", str(cleaned_up))
    execution = call.until_started()
    # Only then the function is entered for certain, and has something to clean up.
    wait_for(lambda: call.lines(execution))
    folder = stack.worker_folder(execution["execution_id"]).path
    assert processes_that_mention(folder)

    call.cancel()

    over = call.until_over()
    (execution,) = over["executions"]
    assert cleaned_up.read_text() == "InvocationCancelled"
    assert over["phase"] == "CANCELLED"
    assert (execution["outcome"], execution["cause"]) == ("ABORTED", "cancelled")
    assert processes_that_mention(folder) == {}


def test_a_missing_folder_fails_all_its_invocations_with_the_reason(
    stack: Stack, tmp_path: Path
) -> None:
    version = stack.caller.deploy(tmp_path / "nowhere", function_spec("greet"))
    over = version.invoke("greet").until_over()
    assert over["phase"] == "FAILED"
    (execution,) = over["executions"]
    assert execution["error_message"] == f"The folder {tmp_path / 'nowhere'} does not exist"


def test_a_worker_in_another_language(stack: Stack) -> None:
    """The example with a shell script in place of the Python runner."""
    example = ROOT / "examples" / "shell_worker"
    call = stack.caller.deploy(example, function_spec("anything")).invoke("anything")
    assert call.result() == "done by a shell script"
    (execution,) = call.get()["executions"]
    assert call.lines(execution) == ["step 1", "step 2", "step 3"]


def test_a_project_imports_its_own_packages_and_none_of_the_servers(
    stack: Stack, write_project: Callable[[dict[str, str]], Path]
) -> None:
    """A project may have packages named as the server's; the server's libraries are not there."""
    packages = ("api", "worker", "core")
    project = write_project(
        {
            "main.py": """
import importlib
import api, worker, core

def own() -> list[str]:
    return [package.whose for package in (api, worker, core)]

def importable(names: list[str]) -> list[str]:
    found = []
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        found.append(name)
    return found
""",
            **{f"{name}/__init__.py": f"whose = 'the {name} of the project'" for name in packages},
        }
    )
    version = stack.caller.deploy(project, function_spec("own"), function_spec("importable"))
    assert version.invoke("own").result() == [f"the {name} of the project" for name in packages]
    servers = [
        *("fastapi", "sqlalchemy", "temporalio", "pydantic", "registry", "provisioners"),
        *("core.settings", "worker.build", "api.app"),
    ]
    assert version.invoke("importable", {"names": [*servers, "json"]}).result() == ["json"]
