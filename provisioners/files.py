"""Files and folders that hold what programs of others have made."""

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


class UnfitFileError(OSError):
    """Something else has the name of a file: a link, a pipe, a device, a folder, or too much."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "not a regular file of a fitting size", str(path))


def open_regular(path: Path) -> int:
    """Open a regular file for reading: follows no link, waits for no writer, takes no terminal.

    Raises:
        UnfitFileError: it is something else.
        OSError: as `os.open`.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        # ELOOP: a link. ENXIO: a socket.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UnfitFileError(path) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise UnfitFileError(path)


def read_regular_file(path: Path, *, limit: int) -> bytes:
    """Read a file that a program may have put something else in the place of.

    Raises:
        UnfitFileError: it is a link, a pipe or the like, or has more bytes than `limit`.
        OSError: it cannot be opened.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UnfitFileError(path)
    return content


def delete_tree(folder: Path) -> None:
    """Delete a folder that holds whatever a program made of it, as far as that is possible.

    Folders in it are moved out beside it one by one, so that no depth is too deep; links are never
    followed. What cannot be deleted is left.
    """
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        with suppress(OSError):
            try:
                waiting += _empty(path, beside=folder)
                path.rmdir()
            except NotADirectoryError:
                path.unlink()


def _empty(path: Path, *, beside: Path) -> list[Path]:
    """Delete the files of a folder; give the folders that were in it, where they are now."""
    moved: list[Path] = []
    descriptor = _open_folder(path)
    try:
        with os.scandir(descriptor) as entries:
            # All at once: the listing of a folder that changes may leave out something.
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in names:
            with suppress(OSError):
                if not is_folder:
                    os.unlink(name, dir_fd=descriptor)
                    continue
                inner = _open_folder(name, within=descriptor)
                os.close(inner)
                target = beside.with_name(f".{secrets.token_hex(8)}")
                os.rename(name, target, src_dir_fd=descriptor)
                moved.append(target)
    finally:
        os.close(descriptor)
    return moved


def _open_folder(path: Path | str, *, within: int | None = None) -> int:
    """Open a folder, and make it ours to read and change.

    Programs make read-only folders (package caches do), which would keep their content.
    """
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, os.O_PATH | flags, dir_fd=within)
    try:
        # By its descriptor: the name may be that of a link by now.
        itself = f"/proc/self/fd/{handle}"
        with suppress(OSError):
            os.chmod(itself, 0o700)  # noqa: PTH101 - no path
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
