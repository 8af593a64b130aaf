"""A user of the HTTP API."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.stack.processes import Json, wait_for


def is_over(seen: Json) -> bool:
    return bool(seen["invocation_status"] == "TERMINATED")


class Caller:
    """Deploys project folders and calls their functions."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=10,
            verify=False,  # noqa: S501 - http; reading what is trusted takes 40 ms
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, **options: Any) -> Json:
        answer = self.http.request(method, path, **options)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text}"
        body: Json = answer.json()
        return body

    def get(self, path: str) -> Json:
        return self.call("GET", path)

    def deploy(self, folder: Path, *functions: Json, project: str = "shop") -> "Version":
        assert self.http.put(f"/projects/{project}").status_code in {200, 409}
        version = self.call(
            "POST",
            f"/projects/{project}/versions",
            json={"default_docker_image": folder.as_uri(), "functions": list(functions)},
        )
        return Version(self, f"/projects/{project}/versions/{version['version_id']}")


class Version:
    """One deployed state of a project folder."""

    def __init__(self, caller: Caller, path: str) -> None:
        self._caller = caller
        self.path = path

    def invoke(self, function: str, argument: object = None) -> "Invocation":
        return self.invoke_text(function, json.dumps(argument))

    def invoke_text(self, function: str, text: str) -> "Invocation":
        path = f"{self.path}/functions/{function}/invocations"
        answer = self._caller.call("POST", path, json={"input": text})
        return Invocation(self._caller, path, answer["invocation_id"])


class Invocation:
    """One call of a function."""

    def __init__(self, caller: Caller, collection: str, invocation_id: str) -> None:
        self._caller = caller
        self.id = invocation_id
        self.path = f"{collection}/{invocation_id}"

    def get(self) -> Json:
        return self._caller.get(self.path)

    def cancel(self) -> Json:
        return self._caller.call("PUT", f"{self.path}/cancel")

    def until(self, wanted: Callable[[Json], object], *, seconds: float = 30) -> Json:
        return wait_for(self.get, wanted, seconds=seconds)

    def until_over(self, *, seconds: float = 30) -> Json:
        return self.until(is_over, seconds=seconds)

    def until_started(self, *, attempt: int = 1) -> Json:
        """Wait until the runner of an attempt has reported its start; returns the execution."""

        def has_started(seen: Json) -> bool:
            executions = seen["executions"]
            return len(executions) >= attempt and bool(
                executions[attempt - 1]["execution_start_time"]
            )

        execution: Json = self.until(has_started)["executions"][attempt - 1]
        return execution

    def result(self) -> Any:
        """Wait for success; returns what the function gave back."""
        over = self.until_over()
        assert over["phase"] == "SUCCEEDED", over
        return json.loads(over["executions"][-1]["output"])

    def execution_path(self, execution: Json) -> str:
        return f"{self.path}/executions/{execution['execution_id']}"

    def lines(self, execution: Json) -> list[str]:
        lines: list[str] = self._caller.get(f"{self.execution_path(execution)}/logs")["log_lines"]
        return lines
