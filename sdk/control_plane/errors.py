"""The errors that this library raises.

Everything that this library raises on its own account derives from `ControlPlaneError`. What a
function sees when the control plane ends it derives from `Interrupted`.

This module stays light: every worker imports it before the user's function runs.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from control_plane.models import InvocationInfo


class ControlPlaneError(Exception):
    """Base of all errors of this library."""


class DefinitionError(ControlPlaneError, ValueError):
    """A function is declared with something that no server accepts."""


class NotInFunctionError(ControlPlaneError):
    """`current()` was asked outside of a function that the control plane runs."""


class ConfigurationError(ControlPlaneError):
    """Nothing says which server is meant, or which key it wants, or which project."""


class ServerConnectionError(ControlPlaneError, ConnectionError):
    """The server could not be reached, or did not answer, for as long as was tried."""


class ApiError(ControlPlaneError):
    """The server has answered, and refused.

    Attributes:
        status: the HTTP status.
        request: method and path of the request, the path percent-encoded.
        detail: the server's text, as it came.
        request_id: the answer's `X-Request-ID`, which the server's log carries too; may be empty.
    """

    def __init__(self, status: int, detail: str, *, request: str, request_id: str = "") -> None:
        super().__init__(f"{detail} ({status} to {request})")
        self.status = status
        self.request = request
        self.detail = detail
        self.request_id = request_id


class BadRequestError(ApiError):
    """The request makes no sense to the server: a value out of its limits, for example."""


class AuthenticationError(ApiError):
    """The key is wrong, or is not good for this."""


class NotFoundError(ApiError):
    """There is no such project, version, function, invocation or execution."""


class ConflictError(ApiError):
    """It exists already, or has ended already."""


class ServerUnavailableError(ApiError):
    """The server could not do it at the moment, for as long as was tried."""


class WaitTimeoutError(ControlPlaneError, TimeoutError):
    """The invocation has not ended within the time that the caller would wait. It goes on."""


class InvocationError(ControlPlaneError):
    """An invocation has ended without a result.

    Attributes:
        invocation: the invocation as it was when this was noticed.
    """

    def __init__(self, text: str, *, invocation: "InvocationInfo") -> None:
        super().__init__(text)
        self.invocation = invocation


class InvocationFailedError(InvocationError):
    """The function raised an exception, or its worker was lost, and no attempt is left.

    Attributes:
        error: `Class: text` of the exception, or what became of the worker.
        remote_traceback: the traceback through the function's own code; empty if there is none.
    """

    def __init__(self, *, error: str, remote_traceback: str, invocation: "InvocationInfo") -> None:
        text = f"{error}\n\n{remote_traceback}" if remote_traceback else error
        super().__init__(text, invocation=invocation)
        self.error = error
        self.remote_traceback = remote_traceback


class InvocationCancelledError(InvocationError):
    """The invocation was cancelled: by a caller, with its parent, or with its project."""


class InvocationTimedOutError(InvocationError):
    """The invocation's time limit, counted from its creation, has passed."""


# What a function sees when the control plane ends it before it has returned. The control plane asks
# a worker to stop with SIGTERM and kills it after a grace time. The runner turns the first SIGTERM
# into one of these exceptions, raised inside the user's function, which may catch it to clean up.
# Whatever a function does then, there is no further attempt unless another exception leaves it.


class Interrupted(BaseException):
    """The control plane ends this execution.

    Derives from BaseException, as KeyboardInterrupt does, so that `except Exception` in a function
    does not swallow it.
    """


class InvocationCancelled(Interrupted):
    """A caller has cancelled the invocation, its parent, or its project."""


class InvocationTimedOut(Interrupted):
    """The invocation's time limit, counted from its creation, has passed."""
