"""Secrets among the settings: read from files, and taken out of the environment after that."""

import os
import stat
from collections.abc import Iterable
from typing import Final

FILE_SUFFIX: Final = "_FILE"
"""`NAME_FILE` names the file that holds the value of `NAME`."""
MAX_SECRET_BYTES: Final = 4096
"""Of a file with a secret; a header of HTTP with it must stay well below 64 KiB."""

_names: set[str] = set()
"""Variables that hold secrets, of all settings that this process has read."""


class SecretFileError(Exception):
    """The file of a secret cannot be used. The text names the variable, never the content."""


def read_secret_files(names: Iterable[str]) -> dict[str, str]:
    """Read the secrets whose files are named in the environment.

    Args:
        names: of the settings, in lower case; a file is named by the variable `NAME_FILE`.

    Raises:
        SecretFileError: both variables are set, or the file cannot be read, is empty, too large or
            no UTF-8 text.
    """
    found = {}
    for name in names:
        variable = name.upper()
        path = os.environ.get(variable + FILE_SUFFIX)
        if not path:
            continue
        if os.environ.get(variable):
            raise SecretFileError(
                f"Environment variables {variable} and {variable}{FILE_SUFFIX} are both set: "
                "set one of them"
            )
        found[name] = _read(path, variable=variable + FILE_SUFFIX)
    return found


def remember(names: Iterable[str]) -> None:
    """Note names of settings that are secrets, for `forget_secrets`."""
    _names.update(name.upper() for name in names)


def forget_secrets() -> None:
    """Take the secrets that were read as settings out of this process's environment.

    So no child inherits one. Call it when all settings are read. Other users of this machine are
    kept from the memory that the kernel shows as /proc/PID/environ by
    `runtime.process.prepare_process`.
    """
    for name in _names:
        os.environ.pop(name, None)


def _read(path: str, *, variable: str) -> str:
    try:
        # A pipe would hang, and a device has no end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _unusable(variable, "is no plain file")
            content = os.read(descriptor, MAX_SECRET_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unusable(variable, f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_SECRET_BYTES:
        raise _unusable(variable, f"has more than {MAX_SECRET_BYTES} bytes")
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _unusable(variable, "is no UTF-8 text") from None
    if not secret:
        raise _unusable(variable, "is empty")
    return secret


def _unusable(variable: str, problem: str) -> SecretFileError:
    return SecretFileError(f"The file that environment variable {variable} names {problem}")
