"""The API's calls as generated clients make them: strict answers, errors by status and text."""

from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from tests.support.existing_client.reading import (
    ExecutionInfo,
    ExecutionLogs,
    Health,
    InvocationInfo,
    InvocationsListForFunction,
    Outcome,
    ProjectInfo,
    ProjectsList,
    VersionInfo,
    VersionsListForProject,
)

Model = TypeVar("Model", bound=BaseModel)
Json = dict[str, Any]

ERRORS = {
    (403, "The API key is invalid"): "ApiKeyIsInvalid",
    (400, "The next offset is in an invalid format"): "OffsetIsInvalid",
    (400, "The parent function name is missing"): "ParentFunctionNameIsMissing",
    (400, "The parent invocation ID is missing"): "ParentInvocationIdIsMissing",
    (400, "The ID of the parent invocation is invalid"): "ParentInvocationDoesNotExist",
    (400, "The project name is too long"): "ProjectNameIsTooLong",
    (400, "The project is being deleted"): "ProjectIsBeingDeleted",
    (404, "A project with this name does not exist"): "ProjectDoesNotExist",
    (409, "A project with this name already exists."): "ProjectAlreadyExists",
    (404, "A version with this ID does not exist for this project"): "VersionDoesNotExist",
    (
        404,
        "A function with this name does not exist for this project version",
    ): "FunctionDoesNotExist",
    (404, "An invocation with this ID does not exist for this function"): "InvocationDoesNotExist",
    (404, "An execution with this ID does not exist for this invocation"): "ExecutionDoesNotExist",
    (409, "This execution has already started"): "ExecutionHasAlreadyStarted",
    (409, "This execution has not yet started"): "ExecutionHasNotStarted",
    (409, "This execution has already finished"): "ExecutionHasAlreadyFinished",
    (409, "This execution has already terminated"): "ExecutionIsAlreadyTerminated",
    (409, "This invocation has already terminated"): "InvocationIsAlreadyTerminated",
}
"""By exact status and text; a client can name no other error."""


class ApiError(Exception):
    """An answer that is no success.

    `name` is the class that a client has for it, or `ApiException` where it knows none.
    """

    def __init__(self, answer: httpx.Response) -> None:
        detail = answer.json()["detail"]
        self.status = answer.status_code
        known = ERRORS.get((answer.status_code, detail)) if isinstance(detail, str) else None
        self.name = known or "ApiException"
        super().__init__(f"{self.name}: {answer.status_code} {detail}")


class Connection:
    """One method for each endpoint. Any success but 200 fails, as does any unexpected answer."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def _call(
        self, model: type[Model], method: str, *path: str, under: str = "", **options: Any
    ) -> Model:
        url = under + "".join(f"/{quote(part, safe='')}" for part in path)
        answer = await self._http.request(method, url or "/", **options)
        if not 200 <= answer.status_code < 300:
            raise ApiError(answer)
        assert answer.status_code == 200
        return model.model_validate_json(answer.content)

    async def check_health(self) -> Health:
        return await self._call(Health, "GET")

    async def create_project(self, name: str) -> ProjectInfo:
        return await self._call(ProjectInfo, "PUT", "projects", name)

    async def delete_project(self, name: str) -> ProjectInfo:
        return await self._call(ProjectInfo, "DELETE", "projects", name)

    async def get_project(self, name: str) -> ProjectInfo:
        return await self._call(ProjectInfo, "GET", "projects", name)

    async def list_projects(self) -> ProjectsList:
        return await self._call(ProjectsList, "GET", "projects")

    async def create_version(
        self, project: str, *functions: Json, image: str = "image:1"
    ) -> VersionInfo:
        body = {"default_docker_image": image, "functions": list(functions)}
        return await self._call(VersionInfo, "POST", "projects", project, "versions", json=body)

    async def get_version(self, project: str, version: str) -> VersionInfo:
        return await self._call(VersionInfo, "GET", "projects", project, "versions", version)

    async def list_versions(self, project: str) -> VersionsListForProject:
        return await self._call(VersionsListForProject, "GET", "projects", project, "versions")

    async def create_invocation(self, function: str, **body: Any) -> InvocationInfo:
        """`function` is a path, as all first arguments from here on."""
        return await self._call(InvocationInfo, "POST", "invocations", under=function, json=body)

    async def cancel_invocation(self, invocation: str) -> InvocationInfo:
        return await self._call(InvocationInfo, "PUT", "cancel", under=invocation)

    async def get_invocation(self, invocation: str) -> InvocationInfo:
        return await self._call(InvocationInfo, "GET", under=invocation)

    async def list_invocations(self, function: str, **query: Any) -> InvocationsListForFunction:
        return await self._call(
            InvocationsListForFunction, "GET", "invocations", under=function, params=query
        )

    async def start_execution(self, execution: str) -> ExecutionInfo:
        return await self._call(ExecutionInfo, "PUT", "start", under=execution)

    async def update_execution(self, execution: str, output: str) -> ExecutionInfo:
        body = {"latest_output": output}
        return await self._call(ExecutionInfo, "PUT", "update", under=execution, json=body)

    async def finish_execution(
        self,
        execution: str,
        outcome: Outcome,
        *,
        output: str | None = None,
        error: str | None = None,
    ) -> ExecutionInfo:
        body = {"outcome": outcome, "final_output": output, "error_message": error}
        return await self._call(ExecutionInfo, "PUT", "finish", under=execution, json=body)

    async def get_execution(self, execution: str) -> ExecutionInfo:
        return await self._call(ExecutionInfo, "GET", under=execution)

    async def get_execution_logs(self, execution: str, **query: Any) -> ExecutionLogs:
        return await self._call(ExecutionLogs, "GET", "logs", under=execution, params=query)


def function_path(project: str, version: str, function: str) -> str:
    """Give the path of a function, each name percent-encoded."""
    names = (quote(name, safe="") for name in (project, version, function))
    return "/projects/{}/versions/{}/functions/{}".format(*names)
