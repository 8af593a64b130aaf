"""The commands that need no stack: profiles, completion scripts, help; and odd answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from control_plane._console.output import progress_text, seconds
from control_plane._console.tables import Column, plain_table
from control_plane._http.client import Client
from control_plane._http.profiles import Profile, load_profiles, profiles_file

from tests.support.sdk.command_line import CommandLine, Terminal
from tests.support.sdk.gateway import INVOCATION, NO_SUCH_ROUTE, Gateway, Scripted

NO_PROJECTS = Scripted(body={"projects": []})
COMMANDS = (
    *("cancel", "completion", "delete", "deploy", "describe", "invoke", "list", "login"),
    *("logout", "logs", "open", "profiles", "retry", "ui"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variables but a folder for the profiles."""
    for name in list(os.environ):
        if name.startswith("CONTROL_PLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run() -> CommandLine:
    return CommandLine()


def test_servers_are_kept_chosen_and_forgotten(run: CommandLine, folder: Path) -> None:
    assert "control-plane login" in run.refused("list", status=2)
    key_file = folder / "key"
    key_file.write_text("the key\n")
    with Gateway(NO_PROJECTS) as one, Gateway(NO_PROJECTS) as other:
        told = run("login", "--url", f"{one.url}/", "--key-file", str(key_file)).stdout
        assert f"Logged in to {one.url} (0 projects); kept as 'default' in " in told
        assert profiles_file().stat().st_mode & 0o777 == 0o600
        kept = run(
            "login", "--url", other.url, "--profile", "work", "--json", stdin="another key\n"
        ).json
        assert kept == {"profile": "work", "url": other.url, "file": str(profiles_file())}
        assert load_profiles().choose("default") == Profile(url=one.url, key="the key")
        assert load_profiles().choose() == Profile(url=other.url, key="another key")
        run("list")
        run("list", "--profile", "default")
        sent = [seen.headers["authorization"] for seen in (*one.seen, *other.seen)]
        assert sent == ["Bearer the key"] * 2 + ["Bearer another key"] * 2

        assert [line.split() for line in run("profiles").lines] == [
            ["PROFILE", "DEFAULT", "URL"],
            ["default", one.url],
            ["work", "yes", other.url],
        ]
        assert run("profiles", "use", "default").stdout.startswith(f"default ({one.url}) is")
        assert run("profiles", "use", "default", "--json").json["url"] == one.url
        assert [each["default"] for each in run("profiles", "--json").json] == [True, False]
        assert "there are: default, work" in run.refused("profiles", "use", "none", status=2)
        assert run("logout").stdout.startswith("Removed 'default' from ")
        assert "'default'" in run.refused("logout", "default", status=2)
        assert run("logout", "work", "--json").json["profile"] == "work"
    assert run("profiles").stderr == "No profiles yet; `control-plane login` makes one\n"
    assert "no default profile" in run.refused("logout", status=2)


def test_nothing_is_kept_that_the_server_does_not_accept(
    run: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Which server?" in run.refused("login", status=2)
    with Gateway(Scripted(status=403, body={"detail": "The API key is invalid"})) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        assert run.refused("login", status=2) == "The key is empty"
        assert f"{gateway.url} refuses the key" in run.refused("login", status=7, stdin="wrong")
        monkeypatch.setenv("CONTROL_PLANE_API_KEY", "wrong too")
        assert "refuses the key" in run.refused("login", status=7)
        missing = str(folder / "none")
        assert "cannot be read" in run.refused("login", "--key-file", missing, status=2)
    assert not profiles_file().exists()


def test_a_person_is_asked_for_address_and_key() -> None:
    with Gateway(NO_PROJECTS) as gateway:
        terminal = Terminal("login")
        terminal.until("Address of the server [http://127.0.0.1:5000]")
        terminal.type(f"{gateway.url}\n")
        terminal.until("API key")
        terminal.type("hidden key\n")
        assert terminal.end() == 0
    assert "Logged in" in terminal.shown
    assert "hidden" not in terminal.shown
    assert load_profiles().choose() == Profile(url=gateway.url, key="hidden key")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(run: CommandLine, command: str) -> None:
    told = run(command, "--help").stdout
    assert told.startswith(f"Usage: control-plane {command}")
    if command not in ("completion", "profiles"):
        assert "--json" in told


def test_help_imports_nothing_that_takes_long() -> None:
    program = (
        "import sys; from control_plane.cli import control_plane as c; import click\n"
        "context = click.Context(c)\n"
        "names = c.list_commands(context)\n"
        f"assert set(names) >= set({COMMANDS})\n"
        "for name in names: assert c.get_command(context, name).params is not None\n"
        "heavy = {'httpx', 'rich', 'asyncio', 'control_plane._http.client'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(run: CommandLine, shell: str) -> None:
    assert f"_CONTROL_PLANE_COMPLETE={shell}_complete" in run("completion", shell).stdout
    run("completion", "cmd", status=2)


def test_an_address_that_opens_temporals_ui_is_printed(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, link = Scripted(body=INVOCATION), Scripted(body={"url": "http://ui/once"})
    with Gateway(found, link, link) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        monkeypatch.setenv("CONTROL_PLANE_API_KEY", "key")
        assert run("open", "inv-1").stdout == "http://ui/once\n"
        assert run("ui", "--browser", "--json").json == {"temporal_url": "http://ui/once"}
        asked = [(seen.path, seen.body) for seen in gateway.seen if seen.method == "POST"]
        assert asked == [
            ("/temporal_ui_links", {"invocation_id": "inv-1"}),
            ("/temporal_ui_links", {"invocation_id": None}),
        ]


def test_a_server_without_logins_gives_the_address_itself(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, older = Scripted(body=INVOCATION), Scripted(status=404, body=NO_SUCH_ROUTE)
    with Gateway(found, older, found, older) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        monkeypatch.setenv("CONTROL_PLANE_API_KEY", "key")
        assert run("open", "inv-1").stdout == "http://temporal/inv-1\n"
        assert run("open", "inv-1", "--browser", "--json").json == {
            "invocation_id": "inv-1",
            "temporal_url": "http://temporal/inv-1",
        }


def test_a_call_that_waits_says_for_what(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = {
        **INVOCATION,
        "phase_detail": "1 of 1 concurrent executions in use",
        "queue_position": 3,
    }
    children = {
        "project_name": "p",
        "version_id": "ver-1",
        "function_name": "f",
        "invocation_id": "inv-1",
        "invocations": [],
    }
    with Gateway(Scripted(body=waits), Scripted(body=children)) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        monkeypatch.setenv("CONTROL_PLANE_API_KEY", "key")
        told = run("describe", "inv-1").lines
    assert "Detail        1 of 1 concurrent executions in use" in told
    assert "In the queue  place 3" in told
    assert "Temporal      http://temporal/inv-1" in told


def test_a_server_that_goes_away_does_not_end_the_call(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = Client.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "patience", 0.5)
    with Gateway(Scripted(body=INVOCATION), Scripted(status=503)) as gateway:
        monkeypatch.setenv("CONTROL_PLANE_API_URL", gateway.url)
        monkeypatch.setenv("CONTROL_PLANE_API_KEY", "key")
        line = run.refused("invoke", "p", "f", status=5)
    assert line.endswith("inv-1 may go on")


def test_times_tables_and_progress_as_text() -> None:
    given = (None, 0, 59.9, 60, 200, 3600, 7500, 86_400, 90_000 * 4)
    assert [seconds(each) for each in given] == [
        *("", "0s", "59s", "1m", "3m 20s", "1h", "2h 5m", "1d", "4d 4h"),
    ]
    columns = (Column("A"), Column("NUMBER", right=True), Column("C"))
    long = "x" * 500
    assert list(plain_table(columns, [["one", "1", long], ["three", "10", ""]])) == [
        "A      NUMBER  C",
        f"one         1  {long}",
        "three      10",
    ]
    assert progress_text(None) == ""
    assert progress_text({"done": 1, "total": 4, "message": "a\nb"}) == "1/4 (25%) a b"
    assert progress_text({"done": 1, "total": 0}) == "1/0"
    assert progress_text({"done": 2, "place": "x"}) == '2 {"place": "x"}'
