"""control-plane: write functions for the control plane, and talk to it.

This module stays light: every worker imports it before the user's function runs. So everything in
it is imported when it is first asked for.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from control_plane._call.functions import Function
    from control_plane._call.invocation import Invocation
    from control_plane._define.decorator import DefinedFunction, function
    from control_plane._define.local_call import call_local
    from control_plane._http.async_client import AsyncClient
    from control_plane._http.client import Client
    from control_plane._inside.context import Current, current
    from control_plane._inside.progress_report import progress
    from control_plane.errors import (
        ApiError,
        AuthenticationError,
        BadRequestError,
        ConfigurationError,
        ConflictError,
        ControlPlaneError,
        DefinitionError,
        Interrupted,
        InvocationCancelled,
        InvocationCancelledError,
        InvocationError,
        InvocationFailedError,
        InvocationTimedOut,
        InvocationTimedOutError,
        NotFoundError,
        NotInFunctionError,
        ServerConnectionError,
        ServerUnavailableError,
        WaitTimeoutError,
    )

__all__ = [
    "ApiError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ControlPlaneError",
    "Current",
    "DefinedFunction",
    "DefinitionError",
    "Function",
    "Interrupted",
    "Invocation",
    "InvocationCancelled",
    "InvocationCancelledError",
    "InvocationError",
    "InvocationFailedError",
    "InvocationTimedOut",
    "InvocationTimedOutError",
    "NotFoundError",
    "NotInFunctionError",
    "ServerConnectionError",
    "ServerUnavailableError",
    "WaitTimeoutError",
    "call_local",
    "current",
    "function",
    "progress",
]

# No module may have the name of something that is given here: Python would put the module in that
# thing's place when it is imported.
_MODULES = {
    "AsyncClient": "_http.async_client",
    "Client": "_http.client",
    "Current": "_inside.context",
    "DefinedFunction": "_define.decorator",
    "Function": "_call.functions",
    "Invocation": "_call.invocation",
    "call_local": "_define.local_call",
    "current": "_inside.context",
    "function": "_define.decorator",
    "progress": "_inside.progress_report",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name = f"{__name__}.{_MODULES.get(name, 'errors')}"
    module = __import__(module_name, fromlist=[name])
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
