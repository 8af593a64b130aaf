"""`deploy` and a server that answers oddly; all else is in `tests.e2e.test_deploy`."""

from pathlib import Path

import pytest
from control_plane._http.client import Client
from control_plane.deploy import DeploymentError, deploy

from tests.support.sdk.gateway import Gateway, Scripted

PROJECT = Scripted(body={"project_name": "p", "creation_time": 1})
SPEC = {
    "virtual_cpus": 1.0,
    "memory_gbs": 0.5,
    "max_concurrency": 10,
    "max_retries": 0,
    "timeout_seconds": 600,
}
VERSION = Scripted(
    body={
        "project_name": "p",
        "version_id": "ver-1",
        "creation_time": 1,
        "functions": [
            {
                "function_name": "greet",
                "docker_image": "image",
                "resource_spec": SPEC,
                "execution_spec": SPEC,
                "function_status": "READY",
            }
        ],
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "control-plane.toml").write_text("[functions.greet]\n")
    return tmp_path


def test_version_is_registered_again_if_the_answer_was_lost(folder: Path) -> None:
    """Nobody calls a version of which nobody has heard."""
    with (
        Gateway(PROJECT, Scripted(drop=True), VERSION) as gateway,
        Client(gateway.url, "key") as client,
    ):
        deployed = deploy(client, folder, project="p", image="image")
    assert (deployed.version_id, deployed.is_ready) == ("ver-1", True)
    assert [(seen.method, seen.path) for seen in gateway.seen] == [
        ("PUT", "/projects/p"),
        ("POST", "/projects/p/versions"),
        ("POST", "/projects/p/versions"),
    ]
    assert gateway.seen[1].body == gateway.seen[2].body


def test_server_that_counts_otherwise_is_noticed(folder: Path) -> None:
    other = Scripted(body={"digest": "0" * 64, "missing_pieces": []})
    with (
        Gateway(Scripted(status=409), other) as gateway,
        Client(gateway.url, "key") as client,
        pytest.raises(DeploymentError, match="do not fit together"),
    ):
        deploy(client, folder, project="p")
