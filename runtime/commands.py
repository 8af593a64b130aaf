"""What the programs' commands share: options, and errors that an operator can mend.

Only click is imported at the top, so that `--help` stays quick.
"""

# ruff: noqa: PLC0415 - heavy imports wait until a command runs

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import click

from core.text import visible

F = TypeVar("F", bound=Callable[..., Any])
_WORKERS_AS_ROOT = "PROCESS_WORKERS_AS_ROOT"


class _KindOption(click.Option):
    """Says in its help which provisioners there are; looked up only when the help is shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from core.provisioner_kinds import installed_kinds

        shown = copy(self)
        shown.help = f"{self.help} Installed: {', '.join(installed_kinds()) or 'none'}."
        return super(_KindOption, shown).get_help_record(ctx)


def provisioner_option(*, help_text: str, default: str | None = None) -> Callable[[F], F]:
    """Add `--provisioner`.

    Args:
        help_text: what it is for, as sentences.
        default: the kind if none is named; without it, one must be named.
    """
    # To click, a default of None is a value: the option would not be missed.
    presence: dict[str, Any] = (
        {"required": True} if default is None else {"default": default, "show_default": True}
    )
    return click.option(
        "--provisioner",
        cls=_KindOption,
        **presence,
        metavar="KIND",
        envvar="CONTROL_PLANE_PROVISIONER",
        show_envvar=True,
        help=help_text,
    )


def table_options(command: F) -> F:
    """Add `--create-tables` and `--delete-tables`."""
    create = click.option(
        "--create-tables",
        is_flag=True,
        envvar="CONTROL_PLANE_CREATE_TABLES",
        show_envvar=True,
        help="Create or update the tables at the start.",
    )
    delete = click.option(
        "--delete-tables",
        is_flag=True,
        envvar="CONTROL_PLANE_DELETE_TABLES",
        show_envvar=True,
        help="Delete the tables, with everything in them, at the end. For development only.",
    )
    return create(delete(command))


def workers_as_root_option(command: F) -> F:
    """Add `--workers-as-root`."""
    return click.option(
        "--workers-as-root",
        is_flag=True,
        expose_value=False,
        callback=_run_workers_as_root,
        envvar=_WORKERS_AS_ROOT,
        show_envvar=True,
        help="If root runs this, run functions as root, too, who can do anything. Otherwise each "
        "project's functions are a user of their own.",
    )(command)


def _run_workers_as_root(
    context: click.Context,
    parameter: click.Parameter,
    value: bool,
) -> None:
    del context, parameter
    if not value:
        return
    # A provisioner, which may be of another package, reads its settings from there.
    os.environ[_WORKERS_AS_ROOT] = "1"
    if os.geteuid() == 0:
        warning = "Warning: functions run as root, and can do all that root can."
        click.echo(warning, err=True)  # noqa: TID251 - no text of others, and no SDK in here


def data_folder_option(command: F) -> F:
    """Add `--data-folder`."""
    return click.option(
        "--data-folder",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="CONTROL_PLANE_DATA_FOLDER",
        show_envvar=True,
        help="Where everything is kept. Default: /var/lib/control-plane for root, else "
        "~/.local/share/control-plane.",
    )(command)


def temporal_open_option(command: F) -> F:
    """Add `--temporal-open`."""
    return click.option(
        "--temporal-open",
        is_flag=True,
        envvar="CONTROL_PLANE_TEMPORAL_OPEN",
        show_envvar=True,
        help="Let the embedded Temporal listen on ports of this machine, without a login: all its "
        "accounts, and all functions, can then command it. For machines without namespaces.",
    )(command)


def certificate_options(command: F) -> F:
    """Add `--certificate-file` and `--key-file`; see `certificate_and_key`."""
    file = click.Path(path_type=Path)
    certificate = click.option(
        "--certificate-file",
        type=file,
        envvar="CONTROL_PLANE_TLS_CERTIFICATE_FILE",
        show_envvar=True,
        help="Certificate (PEM, with those above it) to serve HTTPS with. Default: plain HTTP.",
    )
    key = click.option(
        "--key-file",
        type=file,
        envvar="CONTROL_PLANE_TLS_KEY_FILE",
        show_envvar=True,
        help="Private key of the certificate (PEM, not encrypted).",
    )
    return certificate(key(command))


def certificate_and_key(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Give what the two options name; None for plain HTTP.

    Raises:
        click.UsageError: only one of them is named.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--certificate-file and --key-file belong together: name both")
    return certificate, key


@contextmanager
def quick_imports() -> Iterator[None]:
    """Collect no garbage in the block, and never look for it in what the block has imported.

    What a program imports stays. Python looks through it again and again while it grows, in vain:
    a Temporal worker's start took 1.25 s of processor time, and takes 1.02 s with this.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class _RefusedError(click.ClickException):
    """As wrong usage, but without its lines about the command."""

    exit_code = 2


@contextmanager
def expected_errors(
    *others: type[Exception], usage: type[Exception] | tuple[()] = ()
) -> Iterator[None]:
    """Answer errors that an operator can mend with one line on stderr, and exit code 1.

    An unknown provisioner is a usage error: exit code 2. All other errors keep their traceback.

    Args:
        usage: errors that end with exit code 2, too.
        *others: expected besides settings, Postgres, Temporal and `ConnectionError`; their texts
            are for people, and may have several lines.
    """
    from sqlalchemy.exc import OperationalError
    from temporalio.service import RPCError

    from core.provisioner_kinds import UnknownProvisionerError
    from core.settings import SettingsError

    try:
        yield
    except UnknownProvisionerError as error:
        raise click.BadParameter(one_line(error), param_hint="--provisioner") from None
    except OperationalError as error:
        raise click.ClickException(f"Postgres: {one_line(error.orig)}") from None
    except RPCError as error:
        raise click.ClickException(f"Temporal: {one_line(error)}") from None
    except (SettingsError, ConnectionError) as error:
        raise click.ClickException(one_line(error)) from None
    except usage as error:
        raise _RefusedError(one_line(error)) from None
    except others as error:
        # As they are: the end of a server's log, for example, is easier to read in lines.
        raise click.ClickException(str(error)) from None


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process with the block, past the interpreter's own shutdown.

    Temporal's client has native threads. One that comes back while the interpreter is being taken
    down aborts the process, after everything was done and said ("PyGILState_Release: thread state
    must be current when releasing" was seen). Usage errors, before anything was connected, and
    unexpected errors pass through.
    """
    code = 0
    try:
        yield
    except click.UsageError:
        raise
    except click.ClickException as error:
        # What hides in the text of a function, or of another program, must not do so here.
        shown = visible(error.format_message())
        error.format_message = lambda: shown  # type: ignore[method-assign]  # each kind has its own
        error.show()
        code = error.exit_code
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def one_line(error: BaseException | None) -> str:
    """Give an error's text in one line; libpq's, for example, come in several."""
    return " ".join(str(error).split())
