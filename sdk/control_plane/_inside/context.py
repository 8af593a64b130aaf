"""Which execution this is: what a function can know about its own call.

This module stays light: every worker imports it before the user's function runs.
"""

from control_plane.errors import NotInFunctionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime


class Current:
    """The call that is being executed.

    Attributes:
        project: the project's name.
        version: the version's id.
        function: the function's name.
        invocation_id: the call, `inv-...`; the same in all attempts.
        execution_id: this attempt, `exe-...`.
        attempt: 1 for the first one.
        api_url: the address of the control plane.
    """

    def __init__(
        self,
        *,
        project: str,
        version: str,
        function: str,
        invocation_id: str,
        execution_id: str,
        attempt: int,
        deadline_seconds: float,
        api_url: str,
        api_key: str,
    ) -> None:
        self.project = project
        self.version = version
        self.function = function
        self.invocation_id = invocation_id
        self.execution_id = execution_id
        self.attempt = attempt
        self.api_url = api_url
        self._deadline_seconds = deadline_seconds
        self._api_key = api_key

    @property
    def deadline(self) -> "datetime":
        """When the invocation's time limit ends, in UTC; earlier attempts count."""
        # Imported here since most functions never ask.
        from datetime import UTC, datetime  # noqa: PLC0415 - see above

        return datetime.fromtimestamp(self._deadline_seconds, UTC)

    @property
    def api_key(self) -> str:
        """The token of this execution, good for child invocations of it."""
        return self._api_key

    def __repr__(self) -> str:
        return f"<{self.function} of {self.project}, {self.invocation_id}, attempt {self.attempt}>"


_current: Current | None = None


def current() -> Current:
    """Give the call that is being executed.

    Raises:
        NotInFunctionError: no control plane runs this; for example, the function was called
            locally, or this is asked while the module is imported.
    """
    if _current is None:
        raise NotInFunctionError(
            "current() works only inside of a function that a control plane runs: there is no "
            "invocation here"
        )
    return _current


def current_or_none() -> Current | None:
    """Give the call that is being executed, if there is one."""
    return _current


def enter(context: Current) -> None:
    """Say which call is being executed; the runner does that, once."""
    global _current  # noqa: PLW0603 - there is one call in a worker
    _current = context
