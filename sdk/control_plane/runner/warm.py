"""The runner in a process that is forked after the user's modules were imported.

A provisioner's program calls `load` once, and `run` in each process that it forks afterwards. What
comes before `load` must be imported here, so that no worker imports it again.
"""

# The first look-up of a host name needs this codec.
import encodings.idna  # noqa: F401
import signal

from control_plane.runner.project import find_function
from control_plane.runner.run import main
from control_plane.runner.sigterm import Sigterm
from control_plane.runner.streams import flush, prepare_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["flush", "load", "run"]


def load(function_name: str, *, folder: str) -> None:
    """Import the module of the function.

    Raises:
        BaseException: as `find_function`, which says in each worker what is wrong.
    """
    prepare_streams()
    find_function(function_name, folder=folder)


def run() -> "NoReturn":
    """Execute the function that the environment names, report, and end the process."""
    sigterm = Sigterm()
    # A handler of the user's module's stays, as it does when it is set after the runner's.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        sigterm.install()
    main(sigterm)
