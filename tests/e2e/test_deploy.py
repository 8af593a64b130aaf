"""`control-plane deploy`, as a user types it, and calls of what it has deployed."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from control_plane._deploy.bundle import make_bundle

from tests.support.stack.caller import Version
from tests.support.stack.processes import Json, one_line, run
from tests.support.stack.stack import API_KEY, Stack
from tests.support.wheels import TINY, WHEEL

WriteProject = Callable[[dict[str, str]], Path]

GREET = {
    "control-plane.toml": "[functions.greet]\nmemory_gbs = 0.25\n",
    "main.py": """
import helpers

def greet(name: str = "world") -> str:
    return helpers.greeting(name)
""",
    "helpers/__init__.py": "def greeting(name):\n    return f'Hello, {name}!'\n",
    "notes.log": "not needed\n",
    ".gitignore": "*.log\n",
}


def deploy(stack: Stack, *arguments: str, key: str = API_KEY) -> subprocess.CompletedProcess[str]:
    environment = {
        "CONTROL_PLANE_API_URL": f"http://127.0.0.1:{stack.port}",
        "CONTROL_PLANE_API_KEY": key,
        "PATH": os.environ["PATH"],
        # No profiles of whoever runs the tests.
        "XDG_CONFIG_HOME": "/nowhere",
    }
    return run("deploy", *arguments, environment=environment, seconds=120)


def deployed(stack: Stack, folder: Path, *arguments: str, project: str = "deployed") -> Json:
    """Deploys; returns what was printed as JSON."""
    ended = deploy(stack, str(folder), "--project", project, "--json", *arguments)
    assert ended.returncode == 0, ended.stderr
    answer: Json = json.loads(ended.stdout)
    return answer


def version_of(stack: Stack, answer: Json) -> Version:
    path = f"/projects/{answer['project_name']}/versions/{answer['version_id']}"
    return Version(stack.caller, path)


def test_a_folder_is_deployed_and_called(stack: Stack, write_project: WriteProject) -> None:
    folder = write_project(GREET)
    ended = deploy(stack, str(folder), "--project", "by-hand")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0] == "Functions 1 function: greet"
    assert lines[1].startswith("Code      4 files, ")
    assert lines[-2:-1] == ["  greet  READY"]
    assert lines[-1].startswith("Deployed by-hand ver-")

    again = deployed(stack, folder, project="by-hand")
    assert (again["uploaded_bytes"], again["ready"]) == (0, True)
    assert again["image"] == make_bundle(folder).image
    (folder / "helpers" / "__init__.py").write_text("def greeting(name):\n    return name\n")
    changed = deployed(stack, folder, project="by-hand")
    assert changed["uploaded_bytes"] == len("def greeting(name):\n    return name\n")

    # Each version keeps its own code.
    assert version_of(stack, again).invoke("greet", {"name": "Ada"}).result() == "Hello, Ada!"
    assert version_of(stack, changed).invoke("greet", {"name": "Ada"}).result() == "Ada"
    # The folder that was deployed is not needed any more.
    for file in folder.rglob("*.py"):
        file.unlink()
    assert version_of(stack, again).invoke("greet").result() == "Hello, world!"


def test_dependencies_are_there_for_the_function(stack: Stack, write_project: WriteProject) -> None:
    folder = write_project(
        {
            "control-plane.toml": "[functions.value]\n",
            "main.py": "import tiny\n\ndef value() -> int:\n    return tiny.value\n",
            "requirements.txt": f"./{WHEEL}\n",
        }
    )
    (folder / "vendor").mkdir()
    (folder / WHEEL).write_bytes(TINY)
    version = version_of(stack, deployed(stack, folder))
    assert version.invoke("value").result() == 42


def test_dependencies_that_cannot_be_installed_are_shown_with_the_reason(
    stack: Stack, write_project: WriteProject
) -> None:
    folder = write_project({**GREET, "requirements.txt": "./vendor/none-1.0-py3-none-any.whl\n"})
    ended = deploy(stack, str(folder), "--project", "broken")
    assert ended.returncode == 1
    assert "  greet  FAILED" in ended.stdout.splitlines()
    assert ended.stderr.count("none-1.0-py3-none-any.whl") == 1
    assert "The dependencies in requirements.txt cannot be installed: " in ended.stderr
    assert ended.stderr.splitlines()[-1] == "Error: not all functions can be prepared"


def test_an_image_is_deployed_without_code(stack: Stack, write_project: WriteProject) -> None:
    folder = write_project(GREET)
    answer = deployed(stack, folder, "--image", folder.as_uri(), project="image")
    assert (answer["image"], answer["uploaded_bytes"]) == (folder.as_uri(), 0)
    assert version_of(stack, answer).invoke("greet").result() == "Hello, world!"


def test_many_files_and_a_large_one(stack: Stack, write_project: WriteProject) -> None:
    folder = write_project(
        {
            "control-plane.toml": "[functions.total]\n",
            "main.py": """
from pathlib import Path

def total() -> int:
    return sum(path.stat().st_size for path in Path(__file__).parent.glob("data/*"))
""",
            **{f"data/{number}": "x" * number for number in range(1, 301)},
        }
    )
    (folder / "data" / "large").write_bytes(os.urandom(6 * 2**20 + 1))
    answer = deployed(stack, folder, project="many")
    expected = sum(range(1, 301)) + 6 * 2**20 + 1
    assert answer["uploaded_bytes"] > expected
    assert version_of(stack, answer).invoke("total").result() == expected


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"jobs.py": "1"}, "say so: --module jobs, or in pyproject.toml"),
        ({"notes.txt": "1"}, "looked for main.py and main/. Functions are looked for in main.py: "),
        (
            {"main.py": "print('connecting'); raise ValueError('no database')"},
            "Printed until then:\nconnecting",
        ),
        ({"main.py": "x = 1"}, "No decorated function in main."),
        ({"main.py": "import no_such_thing"}, "'no_such_thing' is not installed for "),
        ({"main.py": "def f(:"}, "SyntaxError: invalid syntax"),
        ({"control-plane.toml": 'command = ["x"]'}, "but no functions"),
    ],
)
def test_what_cannot_be_deployed_is_said(
    stack: Stack, write_project: WriteProject, files: dict[str, str], text: str
) -> None:
    ended = deploy(stack, str(write_project(files)), "--project", "never")
    assert ended.returncode == 1
    assert text in ended.stderr
    # No line of a stage that has come to nothing.
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr or "discovery_child" not in ended.stderr
    assert stack.caller.http.get("/projects/never").status_code == 404


def test_a_wrong_key_or_address_is_one_line(stack: Stack, write_project: WriteProject) -> None:
    folder, url = str(write_project(GREET)), f"http://127.0.0.1:{stack.port}"
    for arguments, key, code, text in (
        (["--project", "x", "--key", "wrong"], API_KEY, 7, f"Error: {url} refuses the key: "),
        ([], API_KEY, 2, "Error: Missing option '--project'."),
        (["--project", "x"], "", 2, "Error: No key for http://127.0.0.1:"),
        (["--project", "x", "--profile", "y"], API_KEY, 2, "Error: There is no profile 'y' in "),
        (
            ["--project", "x", "--url", "http://127.0.0.1:1"],
            API_KEY,
            5,
            "Error: http://127.0.0.1:1",
        ),
    ):
        ended = deploy(stack, folder, *arguments, key=key)
        assert ended.returncode == code, ended.stderr
        assert ended.stderr.splitlines()[-1].startswith(text)
    assert one_line(deploy(stack, folder, "--project", "x" * 65).stderr).startswith(
        "Error: The project name is too long"
    )
