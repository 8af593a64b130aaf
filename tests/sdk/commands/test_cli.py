"""The `control-plane` command finds its subcommands and survives broken ones."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command with a distribution installed that brings three commands, two of them bad."""
    (tmp_path / "brings_commands.py").write_text(
        "import click\n"
        "@click.command(short_help='Say it.')\n"
        "@click.argument('text')\n"
        "def echo(text): click.echo(text)\n"
        "no_command = 1\n"
    )
    (tmp_path / "broken_module.py").write_text(
        "print('imported')\nraise RuntimeError('half\\ninstalled')"
    )
    metadata = tmp_path / "brings_commands-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: brings-commands\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[control_plane.commands]\n"
        "zz-echo = brings_commands:echo\n"
        "zz-broken = broken_module:command\n"
        "zz-none = brings_commands:no_command\n"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
            "from control_plane.cli import main; sys.argv[0] = 'x'; main()"
        )
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_help_lists_all_commands_the_broken_ones_too(run: Run) -> None:
    result = run("--help")

    assert result.returncode == 0
    assert result.stderr == ""
    lines = {
        line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("  zz")
    }
    assert "Say it." in lines["zz-echo"]
    assert "cannot be loaded" in lines["zz-broken"]
    assert "cannot be loaded" in lines["zz-none"]


def test_command_runs_without_importing_its_neighbours(run: Run) -> None:
    result = run("zz-echo", "hello")

    assert (result.returncode, result.stdout) == (0, "hello\n")


@pytest.mark.parametrize("arguments", [(), ("--some", "option", "-x"), ("--help",)])
def test_broken_command_says_why_in_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    result = run("zz-broken", *arguments)

    assert result.returncode == 1
    assert result.stderr == (
        "Error: The command 'zz-broken' cannot be loaded: RuntimeError: half installed\n"
    )


def test_entry_point_that_is_no_command_says_so(run: Run) -> None:
    result = run("zz-none")

    assert result.returncode == 1
    assert "brings_commands:no_command is no click command" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("no-such-command",), ("zz-echo",), ("zz-echo", "a", "b"), ("--no-such-option",)]
)
def test_wrong_usage_ends_with_status_2(run: Run, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)

    assert result.returncode == 2
    assert "Usage: control-plane" in result.stderr


def test_version_is_that_of_the_installed_package(run: Run) -> None:
    result = run("--version")

    assert result.returncode == 0
    assert result.stdout == f"control-plane, version {version('control-plane-sdk')}\n"


@pytest.mark.parametrize("arguments", [("run", "main.py::greet"), ("up", "--help")])
def test_commands_of_the_server_say_what_to_install_where_it_is_not(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    program = (
        "import control_plane.cli as cli, sys; cli._found = dict; sys.argv[0] = 'x'; cli.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert f"`control-plane {arguments[0]}` is part of the server" in result.stderr
    assert "make install" in result.stderr
