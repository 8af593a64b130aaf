"""The text that tells the user what went wrong in a function."""

import os
import sys

from control_plane.errors import InvocationCancelled
from control_plane.runner.values import escape_surrogates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException

MAX_ERROR_CHARACTERS = 16_384
_RUNNER_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")  # noqa: PTH100, PTH118, PTH120 - fast start


def describe(error: BaseException, *, project_folder: str) -> str:
    """Give `<Class>: <text>` and, where the user's code took part, the traceback through it.

    The text can be sent: it has no NUL character and no lone surrogate. It may be too long.
    """
    text = _text_of(error)
    headline = f"{type(error).__name__}: {text}" if text else type(error).__name__
    try:
        # The runner's own errors, about input and output, say all there is in their text; so does
        # a cancel, which finds the function wherever it stands.
        own = type(error).__module__.startswith("control_plane.runner.")
        own = own or isinstance(error, InvocationCancelled)
        details = "" if own else _user_traceback(error, project_folder)
    except Exception as fault:  # noqa: BLE001 - the report of an error must not fail for its traceback
        details = f"(no traceback: {type(fault).__name__})"
    message = f"{headline}\n\n{details}".rstrip()
    return escape_surrogates(message.replace("\0", "\\x00"))


def shorten(text: str, *, limit: int = MAX_ERROR_CHARACTERS) -> str:
    """Cut a text in the middle, visibly, so that it has at most `limit` characters."""
    if len(text) <= limit:
        return text
    mark = f"\n[... {len(text):,} characters in all, cut here to {limit:,} ...]\n"
    kept = limit - len(mark)
    head = kept // 2
    return text[:head] + mark + text[len(text) - (kept - head) :]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:  # noqa: BLE001 - the user's __str__ may do anything
        return f"(its text cannot be read: {type(fault).__name__})"


def _user_traceback(error: BaseException, project_folder: str) -> str:
    # A module of the project may have the name of one that `traceback` needs (token.py, say).
    path = sys.path[:]
    sys.path[:] = [entry for entry in path if entry not in (project_folder, "")]
    try:
        import traceback  # noqa: PLC0415 - only failures need it
    finally:
        sys.path[:] = path
    whole = traceback.TracebackException.from_exception(error)
    _drop_runner_frames(whole, set())
    return "".join(whole.format())


def _drop_runner_frames(part: "TracebackException | None", seen: set[int]) -> None:
    if part is None or id(part) in seen:
        return
    seen.add(id(part))
    # All that lies above the user's code: our frames, and those of asyncio between them.
    ours = [i for i, frame in enumerate(part.stack) if frame.filename.startswith(_RUNNER_FOLDER)]
    del part.stack[: ours[-1] + 1 if ours else 0]
    _drop_runner_frames(part.__cause__, seen)
    _drop_runner_frames(part.__context__, seen)
    for member in part.exceptions or ():
        _drop_runner_frames(member, seen)
