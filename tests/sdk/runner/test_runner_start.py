"""How a worker starts: its environment, what the user's code can see, and what it costs."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.sdk.peer import Peer
from tests.support.sdk.workers import SDK, StartWorker, environment_of


def output_of(peer: Peer) -> object:
    assert peer.finished is not None
    assert peer.finished["outcome"] == "SUCCEEDED", peer.finished["error_message"]
    return json.loads(str(peer.finished["final_output"]))


@pytest.mark.parametrize(
    "name",
    [
        "PROJECT_NAME",
        "VERSION_ID",
        "FUNCTION_NAME",
        "INVOCATION_ID",
        "EXECUTION_ID",
        "API_URL",
        "API_KEY",
    ],
)
def test_missing_variable_is_one_clear_line(
    name: str, peer: Peer, start_worker: StartWorker
) -> None:
    environment = environment_of(peer, "run")
    del environment[f"CONTROL_PLANE_{name}"]
    worker = start_worker("def run(): ...", environment=environment)

    assert worker.end() == 2
    assert worker.output == (
        f"control-plane: The environment variable CONTROL_PLANE_{name} is missing\n"
    )
    assert peer.calls == []


def test_empty_environment_names_all_variables(start_worker: StartWorker) -> None:
    worker = start_worker("def run(): ...", environment={"PATH": ""})

    assert worker.end() == 2
    assert worker.output.count("CONTROL_PLANE_") == 7
    assert worker.output.count("\n") == 1


@pytest.mark.parametrize("url", ["ftp://host", "host:5000", "http://", "http://host:port"])
def test_address_that_is_none_is_refused(url: str, peer: Peer, start_worker: StartWorker) -> None:
    worker = start_worker(
        "def run(): ...", environment=environment_of(peer, "run", CONTROL_PLANE_API_URL=url)
    )

    assert worker.end() == 2
    assert repr(url) in worker.output


def test_multinode_names_are_read_too(peer: Peer, start_worker: StartWorker) -> None:
    environment = {
        name.replace("CONTROL_PLANE_", "MULTINODE_"): value
        for name, value in environment_of(peer, "run").items()
    }
    assert start_worker("def run(): return 1", environment=environment).end() == 0
    assert output_of(peer) == 1


def test_trailing_slash_of_the_address_does_no_harm(peer: Peer, start_worker: StartWorker) -> None:
    environment = environment_of(peer, "run", CONTROL_PLANE_API_URL=peer.url + "/")
    assert start_worker("def run(): return 1", environment=environment).end() == 0


def test_project_folder_may_lie_elsewhere(
    peer: Peer, start_worker: StartWorker, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text("import os\ndef run(): return [__file__, os.getcwd()]")
    environment = environment_of(peer, "run", CONTROL_PLANE_PROJECT_FOLDER=str(code))

    assert start_worker(None, environment=environment).end() == 0
    assert output_of(peer) == [str(code / "main.py"), str(tmp_path / "project")]


def test_user_code_sees_the_standard_library_its_project_and_the_sdk_only(
    peer: Peer, start_worker: StartWorker, project: Path, home: Path
) -> None:
    worker = start_worker(
        """
        import importlib.util, sys
        import control_plane
        def run():
            names = ["fastapi", "pydantic", "click", "core", "api", "registry", "pytest"]
            return [[n for n in names if importlib.util.find_spec(n)], sys.path[0], sys.path[-1]]
        """
    )

    assert worker.end() == 0
    assert output_of(peer) == [[], str(project), str(home)]


def test_project_with_packages_named_like_the_servers_works(
    peer: Peer, start_worker: StartWorker, project: Path
) -> None:
    for name in ("api", "core", "worker"):
        (project / name).mkdir()
        (project / name / "__init__.py").write_text(f"NAME = {name!r}")
    worker = start_worker(
        "import api, core, worker\ndef run(): return [api.NAME, core.NAME, worker.NAME]"
    )

    assert worker.end() == 0
    assert output_of(peer) == ["api", "core", "worker"]


def test_modules_of_the_project_do_not_get_into_the_runners_way(
    peer: Peer, start_worker: StartWorker, project: Path
) -> None:
    """Reporting an error needs modules that are not loaded yet; `token` is one below them."""
    for name in ("token", "traceback", "values", "run"):
        (project / f"{name}.py").write_text("raise ImportError('of the project')")
    worker = start_worker("def run(): raise ValueError('reported')")

    assert worker.end() == 1
    assert peer.finished is not None
    assert "in run" in str(peer.finished["error_message"])


def test_runner_loads_the_standard_library_only_and_little_of_it(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker("import sys\ndef run(): return sorted(sys.modules)")

    assert worker.end() == 0
    modules = output_of(peer)
    assert isinstance(modules, list)
    packages = {str(name).partition(".")[0] for name in modules}
    assert packages - sys.stdlib_module_names == {"__main__", "main", "control_plane"}
    heavy = {"asyncio", "dataclasses", "inspect", "logging", "pathlib", "traceback", "typing"}
    assert heavy.isdisjoint(modules)
    assert "urllib.request" not in modules


def test_runner_can_be_started_as_a_module(peer: Peer, start_worker: StartWorker) -> None:
    environment = environment_of(peer, "run", PYTHONPATH=str(SDK))
    worker = start_worker(
        "from control_plane import Interrupted\ndef run(): return Interrupted.__name__",
        arguments=["-m", "control_plane.runner"],
        environment=environment,
    )

    assert worker.end() == 0
    assert output_of(peer) == "Interrupted"


def test_runner_can_be_started_as_a_plain_script(
    peer: Peer, start_worker: StartWorker, project: Path
) -> None:
    """Without -I the runner's own folder must not shadow the project's modules."""
    (project / "report.py").write_text("NAME = 'of the project'")
    script = SDK / "control_plane" / "runner" / "__main__.py"
    worker = start_worker("import report\ndef run(): return report.NAME", arguments=[str(script)])

    assert worker.end() == 0
    assert output_of(peer) == "of the project"


def test_output_is_readable_line_by_line_while_the_function_runs(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import os, pathlib
        def run():
            print("füße \\udcff")
            return pathlib.Path(os.environ["OUTPUT"]).read_text(encoding="utf-8")
        """,
        environment=environment_of(peer, "run", OUTPUT="../output.txt", LC_ALL="C"),
    )

    assert worker.end() == 0
    assert output_of(peer) == "füße \\udcff\n"


def test_user_code_may_start_processes_that_import_it_anew(
    peer: Peer, start_worker: StartWorker
) -> None:
    worker = start_worker(
        """
        import multiprocessing
        from control_plane import Interrupted
        def double(x): return 2 * x
        def run():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return pool.map(double, [1, 2])
        """
    )

    assert worker.end() == 0
    assert output_of(peer) == [2, 4]
    assert peer.verbs == ["start", "finish"]
