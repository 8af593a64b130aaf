"""The commands for calls, over a real stack: what they print, and how they end."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_plane._http.client import Client
from control_plane.deploy import deploy

from tests.support.sdk.command_line import CommandLine, Process, Terminal, environment
from tests.support.sdk.project import main
from tests.support.stack.processes import wait_for
from tests.support.stack.stack import API_KEY, Stack

PROJECT = "commands"
ID = re.compile(r"inv-[0-9a-f]{32}")


@pytest.fixture(scope="session")
def version(stack: Stack) -> str:
    with Client(stack.caller.url, API_KEY) as client:
        return deploy(client, Path(main.__file__).parent, project=PROJECT).version_id


@pytest.fixture
def run(stack: Stack, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Commands that find the server in the environment."""
    del version
    monkeypatch.setenv("CONTROL_PLANE_API_URL", stack.caller.url)
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", API_KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return CommandLine()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def held(run: CommandLine, gate: Path) -> Iterator[str]:
    """A call that waits for the gate and has said so; its id."""
    invocation_id = run("invoke", PROJECT, "hold", "-i", f'"{gate}"', "--detach").stdout.strip()
    wait_for(lambda: run("logs", invocation_id).stdout == "waiting\n", seconds=60)
    yield invocation_id
    gate.touch()


def id_in(text: str) -> str:
    found = ID.search(text)
    assert found is not None, text
    return found.group()


def test_the_result_is_all_that_goes_to_standard_output(run: CommandLine, tmp_path: Path) -> None:
    invoke = ("invoke", PROJECT)
    ended = run(*invoke, "square", "--input", "7")
    assert (ended.stdout, ID.fullmatch(ended.stderr.strip()) is not None) == ("49\n", True)
    assert run(*invoke, "greet", "--input", '"Ada"').json == "Hello, Ada!"
    assert run(*invoke, "join", "--input", '{"first": "a", "times": 2}').json == "a-a-"
    file = tmp_path / "input.json"
    file.write_text('["x", "y"]\n')
    assert run(*invoke, "join", "--input", f"@{file}").json == "xy"
    assert run(*invoke, "join", "--input", "-", stdin='["p", "q"]').json == "pq"
    assert run(*invoke, "letters", "-i", '"abc"').json == "c"
    whole = run(*invoke, "square", "--input", "7", "--json").json
    assert (whole["phase"], whole["executions"][0]["output"]) == ("SUCCEEDED", "49")


def test_a_call_that_fails_shows_the_remote_traceback(run: CommandLine) -> None:
    ended = run("invoke", PROJECT, "refuse", "-i", '"mint"', status=1)
    assert ended.stdout == ""
    assert "Error: refuse has failed after 2 attempts: ValueError: no such flavour:" in ended.stderr
    assert "in refuse\n" in ended.stderr
    invocation_id = id_in(ended.stderr)

    assert run("logs", invocation_id, "--execution", "1").lines[0] == "attempt 1"
    latest = run("logs", invocation_id)
    assert latest.lines[0] == "attempt 2"
    assert latest.stderr == "Attempt 2; --execution 1 is the first one\n"
    assert "there are: 1, 2" in run.refused("logs", invocation_id, "--execution", "3", status=6)

    told = run("describe", invocation_id).stdout
    assert re.search(r"^Phase +FAILED$", told, re.MULTILINE)
    assert re.search(r"^1 +TERMINATED +user_error .* 1 +process ", told, re.MULTILINE)
    assert "Error of attempt 2\nValueError: no such flavour:" in told
    assert "Error of attempt 1" not in told
    assert re.search(r'^Input +"mint"$', told, re.MULTILINE)

    again = run("retry", invocation_id, "--wait", status=1)
    new_id = id_in(again.stderr)
    assert new_id != invocation_id
    whole = run("describe", new_id, "--json").json
    assert (whole["input"], whole["phase"], whole["children"]) == ('"mint"', "FAILED", [])


def test_a_call_that_times_out_ends_with_4(run: CommandLine) -> None:
    ended = run("invoke", PROJECT, "too_slow", status=4)
    assert "did not end within 2 seconds of its creation" in ended.stderr
    whole = run("describe", id_in(ended.stderr), "--json").json
    assert (whole["phase"], whole["executions"][0]["cause"]) == ("TIMED_OUT", "timed_out")


def test_a_call_that_is_cancelled_ends_with_3(run: CommandLine, held: str) -> None:
    following = Process(("logs", held, "--follow", "--json"))
    missing = f"inv-{'0' * 32}"
    ended = run("cancel", held, missing, "--wait", status=6)
    assert ended.stdout == f"{held}  CANCELLED\n"
    assert ended.stderr.startswith(f"Error: There is no invocation '{missing}'")
    assert json.loads(following.end().lines[0])["line"] == "waiting"
    # Once more is no error.
    assert [each["phase"] for each in run("cancel", held, "--json").json] == ["CANCELLED"]

    waiting = Process(("invoke", PROJECT, "hold", "-i", '"/nowhere/gate"'))
    invocation_id = waiting.reads_error().strip()
    run("cancel", invocation_id)
    ended = waiting.end()
    assert (ended.status, ended.stdout) == (3, "")
    assert f"Error: hold ({invocation_id}) was cancelled" in ended.stderr

    copy = run("retry", invocation_id).stdout.strip()
    run("cancel", copy)
    assert run("cancel", copy, "--wait").stdout == f"{copy}  CANCELLED\n"


def test_what_happens_is_followed(run: CommandLine, gate: Path) -> None:
    follower = Process(("invoke", PROJECT, "hold", "-i", f'"{gate}"', "--follow"))
    seen = [follower.reads_error()]
    # How far the call is at the first look depends on the machine. It waits for the gate at most.
    while not ("waiting\n" in seen and any(line.startswith("[") for line in seen)):
        assert seen[-1], seen
        seen.append(follower.reads_error())
    (first, *_) = (line for line in seen if line.startswith("["))
    assert first.startswith(("[QUEUED", "[PROVISIONING", "[RUNNING", "[1/2"))
    gate.touch()
    assert follower.end().json == id_in(seen[0])

    ended = run("invoke", PROJECT, "hold", "-i", f'"{gate}"', "--follow", "--json")
    events = [json.loads(line) for line in ended.lines]
    assert [each["event"] for each in events][-1] == "end"
    assert [each["line"] for each in events if each["event"] == "log"] == ["waiting"]
    assert events[0]["event"] == "state"
    assert events[-1]["invocation"]["phase"] == "SUCCEEDED"


def test_progress_is_shown_while_it_runs(run: CommandLine, gate: Path) -> None:
    follower = Process(("invoke", PROJECT, "hold", "-i", f'"{gate}"', "--follow"))
    seen = [follower.reads_error()]
    while not seen[-1].startswith("[1/2"):
        assert seen[-1], seen
        seen.append(follower.reads_error())
    assert seen[-1] == f'[1/2 (50%) waiting {{"place": ["{gate}"]}}]\n'
    told = run("describe", id_in(seen[0])).stdout
    assert "1/2 (50%) waiting" in told
    gate.touch()
    ended = follower.end()
    assert (ended.status, ended.json) == (0, id_in(seen[0]))


def test_lines_from_the_end_and_since_a_time(run: CommandLine, held: str) -> None:
    assert run("logs", held, "--tail", "0").stdout == ""
    assert run("logs", held, "--tail", "5").stdout == "waiting\n"
    assert run("logs", held, "--since", "1h30m").stdout == "waiting\n"
    assert run("logs", held, "--since", "2020-01-01T00:00:00Z").stdout == "waiting\n"
    assert run("logs", held, "--since", str(int(time.time()) + 3600)).stdout == ""
    assert run("logs", held, "--since", "2999-01-01").stdout == ""
    (entry,) = (json.loads(line) for line in run("logs", held, "--json").lines)
    assert (entry["attempt"], entry["line"]) == (1, "waiting")
    assert "neither a length of time" in run.refused("logs", held, "--since", "x", status=2)


def test_waiting_may_end_before_the_call(run: CommandLine, held: str, gate: Path) -> None:
    """A key names the call; --timeout and Ctrl-C leave it alone, and say so."""
    keyed = ("invoke", PROJECT, "hold", "-i", f'"{gate}"', "--idempotency-key", "k")
    line = run.refused(*keyed, "--timeout", "0.1", status=8)
    invocation_id = id_in(line)
    assert f"`control-plane cancel {invocation_id}` cancels it" in line

    waiting = Process(keyed)
    assert waiting.reads_error().strip() == invocation_id
    ended = waiting.interrupt()
    assert (ended.status, ended.stdout) == (130, "")
    assert f"{invocation_id} goes on" in ended.stderr
    assert run("describe", invocation_id, "--json").json["invocation_status"] == "RUNNING"
    following = Process(("logs", held, "--follow"))
    assert following.reads() == "waiting\n"
    assert following.interrupt().status == 130
    gate.touch()
    assert run(*keyed).json == invocation_id


def test_the_tree_of_what_a_call_has_called(run: CommandLine) -> None:
    ended = run("invoke", PROJECT, "sum_of_squares", "-i", "[[1, 2, 3]]")
    assert ended.json == 14
    invocation_id = id_in(ended.stderr)
    told = run("describe", invocation_id)
    tree = told.stdout.partition("Invocations made by it, newest first\n")[2].splitlines()
    assert [line.split()[:3:2] for line in tree] == [["square", "SUCCEEDED"]] * 3
    whole = run("describe", invocation_id, "--json").json
    assert [each["function_name"] for each in whole["children"]] == ["square"] * 3
    assert [each["children"] for each in whole["children"]] == [[]] * 3
    assert whole["children_cut"] is False

    cut = run("describe", invocation_id, "--children", "2")
    assert "Not all are shown: --children 20 shows more" in cut.stderr
    assert len(run("describe", invocation_id, "--children", "2", "--json").json["children"]) == 2
    assert run("describe", invocation_id, "--depth", "0", "--json").json["children"] == []
    child = run("describe", whole["children"][0]["invocation_id"]).stdout
    assert re.search(rf"^Parent +sum_of_squares {invocation_id}$", child, re.MULTILINE)


def test_lists_of_projects_functions_versions_and_calls(run: CommandLine, version: str) -> None:
    projects = run("list").lines
    assert projects[0].split() == ["PROJECT", "AGE", "STATE"]
    assert PROJECT in [line.split()[0] for line in projects]
    assert PROJECT in [each["project_name"] for each in run("list", "--json").json]

    listed = run("list", PROJECT)
    assert version in listed.stderr
    row = next(line for line in listed.lines if line.startswith("square "))
    assert row.split() == ["square", "READY", "1", "256", "MiB", "1h", "0", "4"]
    assert run("list", PROJECT, "--json").json["version_id"] == version
    assert [line.split()[0] for line in run("list", PROJECT, "--versions").lines[1:]] == [version]

    for _ in range(3):
        run("invoke", PROJECT, "lost", status=1)
    calls = run("list", PROJECT, "lost", "--limit", "2", "--status", "terminated")
    assert [line.split()[1] for line in calls.lines] == ["PHASE", "FAILED", "FAILED"]
    assert "--limit 20" in calls.stderr
    entries = run("list", PROJECT, "lost", "--version", version, "--json").json
    assert [each["attempts"] for each in entries] == [1, 1, 1]
    told = run("describe", PROJECT, "lost").stdout
    assert entries[0]["invocation_id"] in told
    assert run("describe", PROJECT, "lost", "--json").json["function_name"] == "lost"
    assert run("describe", PROJECT, "--json").json["version"]["version_id"] == version
    assert "Versions  1" in run("describe", PROJECT).lines


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["list", "nowhere"], 6, "There is no project 'nowhere'; `control-plane list` shows the"),
        (["list", PROJECT, "--version", "ver-0"], 6, f"There is no version 'ver-0' in '{PROJECT}'"),
        (["invoke", PROJECT, "none"], 6, f"There is no function 'none' in '{PROJECT}'; "),
        (["describe", "inv-0"], 6, "There is no invocation 'inv-0'; "),
        (["logs", "inv-0"], 6, "There is no invocation 'inv-0'; "),
        (["open", "inv-0"], 6, "There is no invocation 'inv-0'; "),
        (["delete", "nowhere", "--yes"], 6, "There is no project 'nowhere'; "),
        (["delete", PROJECT], 2, "There is nobody to ask: give --yes"),
        (["invoke", PROJECT, "greet", "-i", "Ada"], 2, "A text wants quotes: --input '\"Ada\"'"),
        (["invoke", PROJECT, "greet", "-i", "@/nowhere"], 2, "--input: /nowhere cannot be read"),
        (
            ["invoke", PROJECT, "greet", "-i", json.dumps("x" * 250_000)],
            2,
            "--input: The input has 250,002 characters as JSON, and the limit is 250,000",
        ),
        (
            ["list", PROJECT, "greet", "--status", "succeeded"],
            2,
            "SUCCEEDED is a phase, and calls are found by their status: TERMINATED has the phases ",
        ),
        (["describe", f"{PROJECT}/greet"], 6, "names have no '/'; write PROJECT FUNCTION"),
        (["invoke", PROJECT, "greet", "--follow", "--detach"], 2, "give one of them"),
        (["invoke", PROJECT, "greet", "--timeout", "1", "--detach"], 2, "--timeout is for waiting"),
        (["retry", "inv-0", "--timeout", "1"], 2, "--timeout is for --wait and --follow"),
        (["list", "--key", "wrong"], 7, "refuses the key: The API key is invalid. `control-plane"),
        (["list", "--url", "http://127.0.0.1:9"], 5, "Is it up? `control-plane login`"),
        (["list", "--url", "ftp://x"], 2, "'ftp://x' is no http or https address"),
        (["list", "--profile", "none"], 2, "There is no profile 'none'"),
        (["deploy", "/", "--project", "p", "--profile", "none"], 2, "There is no profile 'none'"),
    ],
)
def test_errors_are_one_line_and_a_status(
    run: CommandLine, arguments: list[str], status: int, text: str
) -> None:
    assert text in run.refused(*arguments, status=status)


def test_a_project_without_versions_says_so(run: CommandLine, client: Client) -> None:
    client.create_project("empty")
    line = run.refused("list", "empty", status=6)
    assert line == "The project 'empty' has no version yet; deploy one first"
    assert run("describe", "empty").lines[-1].split() == ["Versions", "0"]
    assert run("list", "empty", "--versions").stdout == ""


def test_a_project_is_deleted_when_it_is_gone(run: CommandLine, client: Client) -> None:
    client.create_project("to be deleted")
    ended = run("delete", "to be deleted", "--yes", "--wait")
    assert ended.stdout == "to be deleted is deleted\n"
    run("describe", "to be deleted", status=6)
    client.create_project("another")
    assert run("delete", "another", "-y", "--json").json["deletion_request_time"]


def test_a_project_is_deleted_after_a_question(run: CommandLine, client: Client) -> None:
    del run
    client.create_project("asked about")
    terminal = Terminal("delete", "asked about")
    terminal.until("[y/N]")
    terminal.type("n\n")
    assert terminal.end() == 1
    assert client.get_project("asked about").deletion_request_time is None


def test_a_server_without_temporals_address_says_what_to_set(run: CommandLine) -> None:
    invocation_id = run("invoke", PROJECT, "square", "-i", "1", "--detach").stdout.strip()
    assert "TEMPORAL_UI_URL names it" in run.refused("open", invocation_id, status=1)


def test_names_are_completed(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    del run

    def completed(*words: str) -> list[str]:
        variables = environment(
            _CONTROL_PLANE_COMPLETE="bash_complete",
            COMP_WORDS="\n".join(("control-plane", *words)),
            COMP_CWORD=str(len(words)),
        )
        ended = Process((), variables).end()
        assert (ended.status, ended.stderr) == (0, "")
        return [line.partition(",")[2] for line in ended.lines if line]

    assert PROJECT in completed("describe", PROJECT[:3])
    assert completed("invoke", PROJECT, "sum") == ["sum_of_squares", "sum_of_squares_async"]
    assert completed("logs", "--prof") == ["--profile"]
    monkeypatch.setenv("CONTROL_PLANE_API_URL", "http://127.0.0.1:9")
    assert completed("invoke", PROJECT, "sum") == []
    monkeypatch.delenv("CONTROL_PLANE_API_URL")
    assert completed("describe", "") == []


def test_on_a_terminal_there_are_colours_and_a_line_that_changes(
    run: CommandLine, gate: Path
) -> None:
    del run
    invoke = ("invoke", PROJECT, "hold", "-i", f'"{gate}"')
    following, waiting = Terminal(*invoke, "--follow"), Terminal(*invoke)
    for terminal in (following, waiting):
        terminal.until("\x1b[36mRUNNING\x1b[0m")
        terminal.until("1/2 (50%) waiting")
    waiting.process.send_signal(signal.SIGINT)
    assert waiting.end() == 130
    assert "goes on" in waiting.shown
    gate.touch()
    assert following.end() == 0
    assert f'"{id_in(following.shown)}"' in following.shown.splitlines()[-1]


def test_no_color_is_honoured_on_a_terminal(run: CommandLine) -> None:
    del run
    terminal = Terminal("list", PROJECT)
    assert terminal.end() == 0
    assert "\x1b[32mREADY" in terminal.shown
    terminal = Terminal("list", PROJECT, NO_COLOR="1")
    assert terminal.end() == 0
    assert "READY" in terminal.shown
    assert "\x1b[3" not in terminal.shown
