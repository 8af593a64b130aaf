"""Which execution this worker is for."""

import os
from urllib.parse import quote, urlsplit

TYPE_CHECKING = False  # `typing` would cost the start of every worker some milliseconds
if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIXES = ("CONTROL_PLANE_", "MULTINODE_")
_NAMES = (
    "PROJECT_NAME",
    "VERSION_ID",
    "FUNCTION_NAME",
    "INVOCATION_ID",
    "EXECUTION_ID",
    "API_URL",
    "API_KEY",
)


class EnvironmentIsIncompleteError(Exception):
    """The environment does not say which execution this worker is for."""


class Identity:
    """The variables that a worker gets, read once.

    Attributes:
        project_name: the project.
        version_id: the version, `ver-...`.
        function_name: `name` or `module:name`.
        invocation_id: the invocation, `inv-...`.
        execution_id: the execution, `exe-...`.
        project_folder: absolute path of the user's code.
        api_url: base address of the API without a trailing slash.
        api_key: the token of this execution.
        execution_path: path of this execution under `api_url`, percent-encoded.
    """

    def __init__(self, environment: "Mapping[str, str]") -> None:
        """Read the variables.

        Raises:
            EnvironmentIsIncompleteError: one is missing or empty, or the API's URL is none.
        """
        values = {name: _look_up(environment, name) for name in _NAMES}
        missing = [_PREFIXES[0] + name for name, value in values.items() if not value]
        if missing:
            raise EnvironmentIsIncompleteError(
                f"The environment variable {' and '.join(missing)} is missing"
                if len(missing) < 3
                else f"The environment variables {', '.join(missing)} are missing"
            )
        self.project_name = values["PROJECT_NAME"]
        self.version_id = values["VERSION_ID"]
        self.function_name = values["FUNCTION_NAME"]
        self.invocation_id = values["INVOCATION_ID"]
        self.execution_id = values["EXECUTION_ID"]
        self.api_url = values["API_URL"].rstrip("/")
        self.api_key = values["API_KEY"]
        self.project_folder = os.path.abspath(_look_up(environment, "PROJECT_FOLDER"))  # noqa: PTH100 - fast start
        self.execution_path = "".join(
            f"/{collection}/{quote(values[name], safe='')}"
            for collection, name in (
                ("projects", "PROJECT_NAME"),
                ("versions", "VERSION_ID"),
                ("functions", "FUNCTION_NAME"),
                ("invocations", "INVOCATION_ID"),
                ("executions", "EXECUTION_ID"),
            )
        )
        _check_url(values["API_URL"])
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise EnvironmentIsIncompleteError(
                "The environment variable CONTROL_PLANE_API_KEY holds characters that no key has"
            )


def _look_up(environment: "Mapping[str, str]", name: str) -> str:
    return next((value for p in _PREFIXES if (value := environment.get(p + name))), "")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise EnvironmentIsIncompleteError(
            f"The environment variable CONTROL_PLANE_API_URL is no http or https address: {url!r}"
        )
