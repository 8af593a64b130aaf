"""Which functions of a project are found, and what is said when they are not."""

import sys
from pathlib import Path

import pytest
from control_plane import function
from control_plane._deploy.discovery import DiscoveryError, discover

from tests.sdk.library.test_bundle import write


def names_of(folder: Path, *modules: str) -> list[str]:
    return [spec["function_name"] for spec in discover(folder, modules=modules).functions]


def test_decorated_functions_are_found_by_the_names_that_workers_find_them_by(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        {
            "main.py": """
print("importing")
from control_plane import function
from jobs.images import resize

@function
def greet(): ...

alias = greet

def plain(): ...

bound_to_another_name = function(plain)

@function
async def add(): ...
""",
            "jobs/images.py": """
from control_plane import function

@function(cpu=2)
def resize(): ...

@function
def crop(): ...
""",
        },
    )
    # What main has imported keeps the name by which it is called from there.
    in_main = ["jobs.images:resize", "greet", "plain", "add"]
    assert names_of(tmp_path) == in_main
    assert names_of(tmp_path, "main", "jobs.images") == [*in_main, "jobs.images:crop"]
    assert names_of(tmp_path, "jobs.images") == ["jobs.images:resize", "jobs.images:crop"]
    (tmp_path / "pyproject.toml").write_text('[tool.control-plane]\nmodules = ["jobs.images"]\n')
    assert names_of(tmp_path) == ["jobs.images:resize", "jobs.images:crop"]
    assert discover(tmp_path, modules=["main"]).output == "importing\n"
    assert list(tmp_path.rglob("*.pyc")) == []


def a() -> None: ...


def test_declared_functions_need_no_import(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "control-plane.toml": """
command = ["./run"]

[functions.a]

[functions."b c"]
virtual_cpus = 2
max_retries = 3
retry_spec = { initial_interval_seconds = 5 }
""",
            "main.py": "raise RuntimeError",
        },
    )
    first, second = discover(tmp_path).functions
    # As if it was decorated without any arguments.
    assert first == {**function(a).spec, "function_name": "a"}
    assert second["function_name"] == "b c"
    assert second["resource_spec"]["virtual_cpus"] == 2
    assert second["execution_spec"]["max_retries"] == 3
    assert second["retry_spec"] == {"initial_interval_seconds": 5}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"control-plane.toml": "[functions.a]\ncpu = 1"}, "functions.a has the unknown key 'cpu'"),
        ({"control-plane.toml": "functions = 1"}, "but no functions"),
        ({"control-plane.toml": "["}, "cannot be read"),
        ({"pyproject.toml": "[tool.control-plane]\nmodules = 'x'"}, "must be a list of names"),
        ({"main.py": "import sys; sys.exit(3)"}, "SystemExit: 3"),
        ({"main.py": "import os; print('last words', flush=True); os._exit(7)"}, "last words"),
        ({"main.py": "import package.gone"}, "No module named 'package'"),
        (
            {"main.py": "from control_plane import function\nf = function(lambda x: x)\n"},
            "Workers could not find main.f: its own name is '<lambda>' in the module 'main'",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, files: dict[str, str], text: str) -> None:
    with pytest.raises(DiscoveryError, match=text):
        discover(write(tmp_path, files))


def test_an_error_at_import_is_shown_with_the_users_lines_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.py": "import json\nimport helper\n",
            "helper.py": "import json\n\njson.loads('{')\n",
        },
    )
    with pytest.raises(DiscoveryError) as caught:
        discover(tmp_path)
    text = str(caught.value)
    lines = text.splitlines()
    assert lines[0] == "The project cannot be imported:"
    assert [line.strip() for line in lines if line.startswith('  File "')] == [
        f'File "{tmp_path}/main.py", line 2, in <module>',
        f'File "{tmp_path}/helper.py", line 3, in <module>',
    ]
    assert lines[-1].startswith("json.decoder.JSONDecodeError: ")


def test_the_projects_own_interpreter_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"main.py": "import sys; raise RuntimeError(sys.argv[0] and sys.executable)"})
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    with pytest.raises(DiscoveryError, match=str(own)):
        discover(tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(DiscoveryError, match=str(own)):
        discover(Path(tmp_path.name))
    with pytest.raises(DiscoveryError, match=f"RuntimeError: {sys.executable}"):
        discover(tmp_path, python=Path(sys.executable))
