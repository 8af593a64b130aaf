"""No command lets a function, a name or a server do anything to the terminal that it prints on.

The server of these tests puts attacks into all the texts that it answers.
"""

import ast
import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import control_plane
import pytest
from click import Context
from click.shell_completion import ShellComplete
from control_plane._console import foreign
from control_plane.cli import control_plane as command

from core.text import visible as visible_to_servers
from tests.support.sdk.command_line import CommandLine, Process, Terminal
from tests.support.sdk.gateway import INVOCATION, Gateway, Scripted, Seen

ATTACK = (
    "\x1b]52;c;ZXZpbA==\x07"  # writes to the clipboard
    "\x1b]0;TITLE\x07"  # renames the window
    "\x1b[2J\x1b[3A\x1b[8m\x1b[31;8m"  # clears the screen, goes up, hides what follows
    "\x9b2J\x9d52;c;ZXZpbA==\x9c"  # the same in C1
    "\x1bP$q\x1b\\\x1b[>4;2m\x1b[c\x1bc"  # asks the terminal, which types an answer; resets it
    "\u202eredro\u2066\u200b\U000e0041"  # another order, nothing to see
    "\x00\x08\x7f\u2028\x85\rcovered"
)
TEXT = f"a{ATTACK}b"
VALUE = {TEXT: [TEXT, "\ud800"]}
"""A result; texts of the server itself are UTF-8."""
SPEC = INVOCATION["resource_spec"]
FUNCTION = {
    "function_name": TEXT,
    "docker_image": TEXT,
    "resource_spec": SPEC,
    "execution_spec": SPEC,
    "function_status": "PENDING",
    "preparation": {"status": "FAILED", "error": TEXT},
}
READY = {"status": "READY", "error": None}
VERSION = {
    "project_name": TEXT,
    "version_id": TEXT,
    "creation_time": 1,
    "functions": [FUNCTION, {**FUNCTION, "function_name": "f", "preparation": READY}],
}
EXECUTION = {
    "execution_id": f"exe-{TEXT}",
    "attempt": 1,
    "worker_status": "TERMINATED",
    "outcome": "FAILED",
    "cause": TEXT,
    "output": json.dumps(VALUE),
    "error_message": f"{TEXT}\n{TEXT}",
    "worker": {"provisioner": TEXT, "id": TEXT, "host": TEXT},
    "creation_time": 1,
    "last_update_time": 2,
}
CALL = {
    **INVOCATION,
    "invocation_id": f"inv-1{TEXT}",
    "project_name": TEXT,
    "version_id": TEXT,
    "function_name": TEXT,
    "input": json.dumps([TEXT]),
    "invocation_status": "TERMINATED",
    "phase": "FAILED",
    "phase_detail": TEXT,
    "queue_position": 1,
    "progress": {"message": TEXT, TEXT: TEXT},
    "parent_invocation": {
        "function_name": TEXT,
        "invocation_id": TEXT,
        "invocation_status": TEXT,
        "creation_time": 1,
        "last_update_time": 1,
    },
    "executions": [EXECUTION, {**EXECUTION, "attempt": 2, "error_message": "other"}],
    "output": TEXT,
    "temporal_url": f"file:///{TEXT}",
}
SUCCEEDED = {**CALL, "phase": "SUCCEEDED"}
PAGE = {"project_name": TEXT, "version_id": TEXT, "function_name": TEXT, "invocation_id": TEXT}
PROJECT = {"project_name": TEXT, "creation_time": 1, "deletion_request_time": 1}
SUMMARY = {key: value for key, value in CALL.items() if key not in ("executions", "input")} | {
    "attempts": 1
}
ANSWERS: dict[str, Any] = {
    r"GET /projects": {"projects": [PROJECT]},
    r"(GET|PUT|DELETE) /projects/[^/]+": PROJECT,
    r"GET .*/versions": {"project_name": TEXT, "versions": [VERSION]},
    r"(GET .*/versions/[^/]+|POST .*/versions)": VERSION,
    r"GET .*/functions/[^/]+/invocations": {**PAGE, "invocations": [SUMMARY], "next_offset": None},
    r"GET /invocations/inv-1/children": {
        **PAGE,
        "invocations": [{**SUMMARY, "invocation_id": f"inv-2{TEXT}"}],
        "next_offset": None,
    },
    r"GET /invocations/[^/]+/children": {**PAGE, "invocations": [], "next_offset": None},
    r"GET .*/logs": {**PAGE, "execution_id": TEXT, "log_lines": [TEXT], "next_offset": None},
    r"POST /temporal_ui_links": {"url": f"file:///{TEXT}"},
    r"GET /": {"status": "healthy"},
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "list projects": ("list",),
    "list versions": ("list", "p", "--versions"),
    "list functions": ("list", "p"),
    "list calls": ("list", "p", "f"),
    "describe a call": ("describe", "inv-1"),
    "describe a project": ("describe", "p"),
    "describe a function": ("describe", "p", "f"),
    "logs": ("logs", "inv-1"),
    "logs --follow": ("logs", "inv-1", "--follow"),
    "logs of a missing attempt": ("logs", "inv-1", "--execution", "9"),
    "invoke": ("invoke", "p", "f"),
    "invoke --follow": ("invoke", "p", "f", "--follow"),
    "invoke --detach": ("invoke", "p", "f", "--detach"),
    "retry": ("retry", "inv-1"),
    "retry --follow": ("retry", "inv-1", "--follow"),
    "cancel": ("cancel", "inv-1"),
    "open": ("open", "inv-1"),
    "ui": ("ui",),
    "delete": ("delete", "p", "--yes"),
    "deploy": ("deploy", "PROJECT", "--project", "p", "--image", "i"),
    "deploy code": ("deploy", "PROJECT", "--project", "p"),
    "run": ("run", "PROJECT/main.py::f"),
    "wrong usage": ("list", "p", "--status", TEXT.replace("\x00", "")),
}


class Hostile(Gateway):
    """Answers each request with attacks; or refuses all with one."""

    def __init__(self, call: dict[str, Any], *, status: int = 200) -> None:
        super().__init__(Scripted())
        self._call = call
        self._status = status

    def next(self, seen: Seen) -> Scripted:
        if self._status != 200:
            return Scripted(status=self._status, body={"detail": TEXT})
        asked = f"{seen.method} {seen.path.partition('?')[0]}"
        if asked.endswith("/bundles"):
            text = json.dumps(seen.body, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()
            return Scripted(body={"digest": digest, "missing_pieces": []})
        for pattern, body in ANSWERS.items():
            if re.fullmatch(pattern, asked):
                return Scripted(body=body)
        return Scripted(body=self._call)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to deploy, and where a server is found."""
    monkeypatch.setenv("CONTROL_PLANE_API_KEY", "key")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "main.py").write_text(
        "from control_plane import function\n@function\ndef f(): return 1\n"
    )
    return folder


def hidden_in(text: str) -> set[str]:
    """What a terminal would do something with, or a person would not see."""
    categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {
        each for each in text if each not in "\n\t" and unicodedata.category(each) in categories
    }


def arguments_of(name: str, project: Path) -> tuple[str, ...]:
    return tuple(each.replace("PROJECT", str(project)) for each in COMMANDS[name])


@pytest.fixture(params=[CALL, SUCCEEDED], ids=["failed", "succeeded"])
def hostile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    with Hostile(request.param) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        yield gateway


def test_every_command_is_attacked() -> None:
    local = {"completion", "login", "logout", "profiles"}
    of_operators = {"api", "demo", "loop", "migrate", "openapi", "temporal", "up", "worker"}
    attacked = {arguments[0] for arguments in COMMANDS.values()}
    assert attacked == set(command.list_commands(Context(command))) - local - of_operators


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_hides_in_a_pipe(name: str, project: Path) -> None:
    arguments = arguments_of(name, project)
    # It ends its process.
    ended = Process(arguments).end() if name == "run" else CommandLine().ends(*arguments)
    shown = ended.stdout + ended.stderr
    assert hidden_in(shown) == set(), ended
    assert "Traceback" not in shown
    if name not in ("delete", "deploy code"):
        assert "x1b]52;c;ZXZpbA==" in shown or "u001b]52" in shown, ended


@pytest.mark.usefixtures("hostile")
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_reaches_a_terminal(name: str, project: Path) -> None:
    terminal = Terminal(*arguments_of(name, project))
    terminal.end()
    # What rich does to its own line, and colours.
    own = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\x1b\[1G|\r")
    shown = own.sub("", terminal.shown)
    assert hidden_in(shown) == set(), terminal.shown
    assert not re.search(r"\x1b\[(?:\d*;)*8m", terminal.shown)
    assert "Traceback" not in shown
    if name == "run":
        assert re.search(r"x1b\]52;c;ZXZpbA==|u001b\]52", shown)


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
def test_nothing_hides_in_a_refusal(
    status: int, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hostile(CALL, status=status) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        for name in COMMANDS:
            if name != "run":
                ended = CommandLine().ends(*arguments_of(name, project))
                assert ended.status not in (0, None)
                assert hidden_in(ended.stdout + ended.stderr) == set(), (name, ended)


def test_nothing_hides_in_the_traceback_of_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Gateway(Scripted(body={"projects": [{"project_name": {TEXT: 1}}]})) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        terminal = Terminal("list")
        assert terminal.end() != 0
    shown = terminal.shown.replace("\r", "")
    assert hidden_in(re.sub(r"\x1b\[[0-9;]*m", "", shown)) == set()


@pytest.mark.usefixtures("hostile")
def test_json_is_the_same_value_and_hides_nothing() -> None:
    for arguments in (("describe", "inv-1"), ("list",), ("invoke", "p", "f"), ("logs", "inv-1")):
        ended = CommandLine().ends(*arguments, "--json")
        assert hidden_in(ended.stdout) == set()
        assert json.dumps(TEXT)[1:-1] in json.dumps(ended.json)


def test_a_result_is_the_same_json_and_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Hostile(SUCCEEDED) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        ended = CommandLine()("invoke", "p", "f")
    assert ended.json == VALUE
    assert hidden_in(ended.stdout) == set()
    assert json.loads(foreign.json_text('{\r"a":\r\n1.00}')) == {"a": 1.0}


@pytest.mark.usefixtures("hostile")
def test_raw_gives_a_log_as_it_is() -> None:
    ended = CommandLine().ends("logs", "inv-1", "--raw")
    assert ended.stdout == f"{TEXT}\n"


def log(text: str, *, colours: bool = True) -> list[str]:
    return list(foreign.log_lines(text, colours=colours))


def test_a_log_keeps_its_colours_and_nothing_else() -> None:
    assert log("\x1b[1;31mred\x1b[0m") == ["\x1b[1;31mred\x1b[0m\x1b[0m"]
    assert log("\x1b[31mred", colours=False) == ["red"]
    assert log("\x1b[mplain") == ["\x1b[0mplain\x1b[0m"]
    # 8 hides what follows; as a part of a colour it is a number of the palette.
    assert log("\x1b[8mhidden\x1b[31;08m.") == ["hidden\x1b[31m.\x1b[0m"]
    assert log("\x1b[38;5;8mgrey") == ["\x1b[38;5;8mgrey\x1b[0m"]
    assert log("\x1b[48;2;8;8;8;8mdark") == ["\x1b[48;2;8;8;8mdark\x1b[0m"]
    assert log("\x1b[38;8mx\x1b[38;5m") == ["x"]
    assert log("\x1b[38:5:8mx") == ["\\x1b[38:5:8mx"]
    assert log("\x1b[2J\x1b[?25l\x1b[>4;2m") == ["\\x1b[2J\\x1b[?25l\\x1b[>4;2m"]
    assert log(f"\x1b[{'1;' * 40}1m") == [f"\\x1b[{'1;' * 40}1m"]


def test_a_progress_bar_leaves_a_line_for_each_state() -> None:
    assert log("\r 10%|#   |\r 20%|##  |\r") == [" 10%|#   |", " 20%|##  |"]
    assert log("done\r") == ["done"]
    assert log("one\ntwo") == ["one", "two"]
    assert log("") == [""]
    assert log("\r") == [""]


def test_what_is_visible_stays_as_it_is() -> None:
    for text in ("naïve 日本語 👍🏽 \t x\ny", "עברית", "\\x1b", "\ue0b0"):
        assert foreign.visible(text) == text
    assert foreign.visible("\x1b\x9b\u202e\U000e0041\ud800") == (
        "\\x1b\\x9b\\u202e\\U000e0041\\ud800"
    )
    assert foreign.one_line(" a\n\tb\x1b ") == "a b\\x1b"


def test_server_and_library_hide_nothing_in_the_same_way() -> None:
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        shown = foreign.visible(letter)
        assert shown == visible_to_servers(letter)
        assert hidden_in(shown) == set()


def test_names_with_attacks_are_not_offered_to_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    with Hostile(CALL) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        complete = ShellComplete(command, {}, "control-plane", "_CONTROL_PLANE_COMPLETE")
        assert complete.get_completions(["invoke"], "") == []
        found = complete.get_completions(["invoke", "p"], "")
        assert [each.value for each in found] == ["f"]


def test_only_the_door_calls_a_text_safe() -> None:
    """`ruff` finds what is printed past it (`flake8-tidy-imports` in pyproject.toml)."""
    package = Path(control_plane.__file__).parent
    folders = [package, Path(__file__).parents[3] / "standalone"]
    found = [
        f"{file.name}:{node.lineno}"
        for folder in folders
        for file in folder.rglob("*.py")
        if file.parent.name != "_console"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Safe"
    ]
    assert found == []
