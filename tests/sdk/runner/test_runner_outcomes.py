"""How the end of a function becomes the end of an execution."""

import json
from pathlib import Path

import pytest

from tests.support.sdk.peer import Peer
from tests.support.sdk.workers import StartWorker


def finish_of(peer: Peer) -> dict[str, object]:
    assert peer.finished is not None
    return peer.finished


def test_cl_1_return_value_is_reported_without_an_update(
    peer: Peer, start_worker: StartWorker
) -> None:
    peer.input = '{"name": "wörld"}'
    worker = start_worker('def run(name): return {"text": f"hello {name}"}')

    assert worker.end() == 0
    assert peer.verbs == ["start", "finish"]
    assert finish_of(peer)["outcome"] == "SUCCEEDED"
    assert finish_of(peer)["final_output"] == '{"text": "hello wörld"}'
    assert finish_of(peer)["error_message"] is None
    assert {call.connection for call in peer.calls} == {peer.calls[0].connection}
    assert peer.calls[0].path == (
        "/projects/p%201/versions/ver-1/functions/run/invocations/inv-1/executions/exe-1/start"
    )


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_cl_2_generator_reports_each_value_and_no_final_output(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    ending = "return 'ignored'" if kind == "def" else "return"
    worker = start_worker(f"{kind} run():\n    yield 1\n    yield {{'two': 2}}\n    {ending}\n")

    assert worker.end() == 0
    assert peer.outputs == [1, {"two": 2}]
    assert peer.verbs == ["start", "update", "update", "finish"]
    assert finish_of(peer) == {
        "outcome": "SUCCEEDED",
        "final_output": None,
        "error_message": None,
    }


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_cl_3_generator_that_raises_keeps_its_updates_and_fails(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(f"{kind} run():\n    yield 1\n    raise ValueError('no more')\n")

    assert worker.end() == 1
    assert peer.outputs == [1]
    assert finish_of(peer)["outcome"] == "FAILED"
    message = str(finish_of(peer)["error_message"])
    assert message.splitlines()[0] == "ValueError: no more"
    assert 'main.py", line 3, in run' in message
    assert "ValueError: no more" in worker.output, "the error stands in the worker's log, too"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", [[], {}]),
        (None, [[], {}]),
        (" null ", [[], {}]),
        ('{"b": 1, "self": 2, "function": 3}', [[], {"b": 1, "self": 2, "function": 3}]),
        ("[1, [2]]", [[1, [2]], {}]),
        ("[]", [[], {}]),
        ('"text"', [["text"], {}]),
        ("false", [[False], {}]),
    ],
)
def test_input_becomes_arguments(
    text: str | None, arguments: object, peer: Peer, start_worker: StartWorker
) -> None:
    peer.input = text
    worker = start_worker("def run(*args, **kwargs): return [args, kwargs]")

    assert worker.end() == 0
    assert json.loads(str(finish_of(peer)["final_output"])) == arguments


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"name": ', "InputError: The input is not JSON: Expecting value: line 1 column 10"),
        ("NaN", "InputError: The input is not JSON: NaN is not a JSON value"),
        ("[" * 100_000, "InputError: The input is not JSON: "),
        ("[]", "InputError: The input does not fit the function: run() missing 1 required"),
        ('{"nam": 1}', "InputError: The input does not fit the function: run() got an unexpected"),
    ],
)
def test_wrong_input_fails_with_a_clear_text_and_no_traceback(
    text: str, error: str, peer: Peer, start_worker: StartWorker
) -> None:
    peer.input = text
    worker = start_worker("def run(name): return 1")

    assert worker.end() == 1
    assert finish_of(peer)["outcome"] == "FAILED"
    message = str(finish_of(peer)["error_message"])
    assert message.startswith(error)
    assert "\n" not in message


def test_type_error_inside_the_function_is_the_functions_own(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker("def run(): return len(5)")

    assert worker.end() == 1
    message = str(finish_of(peer)["error_message"])
    assert message.startswith("TypeError: object of type 'int' has no len()")
    assert "main.py" in message


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("{'rows': [1, 2, {3}]}", "The return value is not JSON: $.rows[2] is of the type set"),
        ("[float('nan')]", "The return value is not JSON: $[0] is the number nan"),
        (
            "{'a b': {(1,): 1}}",
            'The return value is not JSON: $["a b"] has a key of the type tuple',
        ),
        ("object()", "The return value is not JSON: $ is of the type object"),
        ("(x := [], x.append(x))[0]", "The return value is not JSON: $[0] contains itself"),
        ("iter(())", "The return value is not JSON: $ is of the type tuple_iterator"),
        (
            "'x' * 249_999",
            "The return value is too long: 250,001 characters of JSON, where at most 250,000",
        ),
    ],
)
def test_output_that_is_no_json_fails_and_names_the_place(
    expression: str, error: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(f"def run(): return {expression}")

    assert worker.end() == 1
    assert finish_of(peer)["outcome"] == "FAILED"
    assert str(finish_of(peer)["error_message"]).startswith(f"OutputError: {error}")


def test_output_of_exactly_the_limit_is_accepted(peer: Peer, start_worker: StartWorker) -> None:
    worker = start_worker("def run(): return 'é' * 249_998")

    assert worker.end() == 0
    assert len(str(finish_of(peer)["final_output"])) == 250_000


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_yield_that_is_no_json_fails_after_the_cleanup_of_the_generator(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""
        {kind} run():
            try:
                yield 1
                yield {{"x": b""}}
                yield 3
            finally:
                print("cleaned up")
        """
    )

    assert worker.end() == 1
    assert peer.outputs == [1]
    assert finish_of(peer)["error_message"] == (
        "OutputError: The yielded value number 2 is not JSON: $.x is of the type bytes"
    )
    assert "cleaned up" in worker.output


def test_nul_and_lone_surrogates_are_made_safe(peer: Peer, start_worker: StartWorker) -> None:
    peer.input = "false"
    code = r"""
        def run(fail):
            if fail:
                raise ValueError("nul \0 and \udcff")
            return "nul \0 and \udcff"
    """
    assert start_worker(code).end() == 0
    output = str(finish_of(peer)["final_output"])
    assert output.encode()
    assert "\0" not in output
    assert json.loads(output) == "nul \0 and \udcff"

    peer.started, peer.finished, peer.input = False, None, "true"
    assert start_worker(code).end() == 1
    message = str(finish_of(peer)["error_message"])
    assert message.startswith("ValueError: nul \\x00 and \\udcff\n")
    assert message.encode()
    assert "\0" not in message


def test_long_errors_are_cut_in_the_middle(peer: Peer, start_worker: StartWorker) -> None:
    worker = start_worker("def run(): raise ValueError('x' * 100_000 + 'end')")

    assert worker.end() == 1
    message = str(finish_of(peer)["error_message"])
    assert len(message) == 16_384
    assert message.startswith("ValueError: xxx")
    assert "characters in all, cut here to 16,384" in message
    assert message.endswith("xend")
    assert "x" * 100_000 + "end" in worker.output, "the log has it all"


def test_traceback_shows_the_users_frames_and_causes_only(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import json
        def inner():
            try:
                json.loads("{")
            except ValueError as error:
                raise RuntimeError("bad file") from error
        def run():
            inner()
        """
    )

    assert worker.end() == 1
    message = str(finish_of(peer)["error_message"])
    assert message.startswith("RuntimeError: bad file\n")
    assert "in inner" in message
    assert "in run" in message
    assert "JSONDecodeError" in message
    assert "control_plane" not in message


@pytest.mark.parametrize(
    ("code", "headline", "contains"),
    [
        (
            "import nothing_like_it",
            "ModuleNotFoundError: No module named 'nothing_like_it'",
            "line 1",
        ),
        ("def run(:", "SyntaxError: invalid syntax (main.py, line 1)", "def run(:"),
        ("raise SystemExit(0)", "SystemExit: 0", "line 1"),
        ("1 / 0", "ZeroDivisionError: division by zero", "line 1"),
    ],
)
def test_import_that_fails_is_started_and_failed(
    code: str, headline: str, contains: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(code)

    assert worker.end() == 1
    assert peer.verbs == ["start", "finish"]
    message = str(finish_of(peer)["error_message"])
    assert message.splitlines()[0] == headline
    assert contains in message
    assert "importlib" not in message


def test_function_that_calls_exit_has_failed(peer: Peer, start_worker: StartWorker) -> None:
    worker = start_worker("import sys\nasync def run(): sys.exit('bye')")

    assert worker.end() == 1
    assert str(finish_of(peer)["error_message"]).startswith("SystemExit: bye\n")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("walk", "The module 'main' has no function 'walk'. It has: Box, run"),
        ("number", "'number' in the module 'main' cannot be called: it is of the type int."),
        ("other:run", "There is no module 'other' in the project folder /"),
        ("a.b:run", "There is no module 'a.b' in the project folder /"),
        ("empty:run", "The module 'empty' has no function 'run'. It has no public functions"),
        (":run", "':run' names no function: write `name` (in main.py) or `module:name`"),
    ],
)
def test_missing_function_fails_and_lists_what_there_is(
    function: str, error: str, peer: Peer, start_worker: StartWorker, project: Path
) -> None:
    (project / "empty.py").write_text("")
    worker = start_worker(
        """
        from json import dumps
        number = 1
        def run(): ...
        def _hidden(): ...
        class Box: ...
        """,
        function,
    )

    assert worker.end() == 1
    assert str(finish_of(peer)["error_message"]).startswith(f"FunctionNotFoundError: {error}")


def test_function_in_a_dotted_module_and_a_callable_object(
    peer: Peer, start_worker: StartWorker, project: Path
) -> None:
    package = project / "jobs" / "daily"
    package.mkdir(parents=True)
    (package / "mail.py").write_text(
        "class Sender:\n    async def __call__(self): return 'sent'\nsend = Sender()\n"
    )

    assert start_worker(None, "jobs.daily.mail:send").end() == 0
    assert finish_of(peer)["final_output"] == '"sent"'
    assert "/functions/jobs.daily.mail%3Asend/" in peer.calls[0].path


def test_async_function_returns_its_value(peer: Peer, start_worker: StartWorker) -> None:
    worker = start_worker(
        """
        import asyncio
        async def run():
            loose = asyncio.create_task(forever())
            await asyncio.sleep(0)
            return await asyncio.gather(double(1), double(2))
        async def double(x): return 2 * x
        async def forever():
            try:
                await asyncio.sleep(3600)
            finally:
                print("loose end tied up")
        """
    )

    assert worker.end() == 0
    assert finish_of(peer)["final_output"] == "[2, 4]"
    assert "loose end tied up" in worker.output


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_threads_left_behind_do_not_keep_the_worker_alive(
    kind: str, peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        f"""
        import threading, time
        {kind} run():
            threading.Thread(target=time.sleep, args=(3600,)).start()
            print("last words", end="")
            return 1
        """
    )

    assert worker.end() == 0
    assert finish_of(peer)["outcome"] == "SUCCEEDED"
    assert worker.output.endswith("last words"), "what is buffered is written"


def test_child_that_comes_out_of_the_function_does_not_report(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import os
        def run():
            child = os.fork()
            if child == 0:
                raise ValueError("the child's trouble")
            os.waitpid(child, 0)
            return "parent"
        """
    )

    assert worker.end() == 0
    assert peer.verbs == ["start", "finish"]
    assert finish_of(peer)["final_output"] == '"parent"'
