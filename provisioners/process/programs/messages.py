"""What keeper, warm parent and reapers say to each other: lines of JSON, with descriptors.

Standard library only; the parent and the reapers run under the project's interpreter.
"""

# contextlib is slow to import:
# ruff: noqa: SIM105

import json
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 4 * 2**20
MAX_ANSWER = 65536


class RefusedError(Exception):
    """No worker is there; the text says why.

    Attributes:
        lasting: whether it would be so again.
    """

    def __init__(self, text: str, *, lasting: bool = True) -> None:
        super().__init__(text)
        self.lasting = lasting


def answer_of(connection: socket.socket) -> "dict[str, Any]":
    """Read one line of JSON of the parent's or the reaper's.

    Raises:
        RefusedError: it is a refusal.
        OSError: the other side has ended.
    """
    return checked(connection.recv(MAX_ANSWER))


def checked(data: bytes) -> "dict[str, Any]":
    """Judge what an untrusted process has sent in one piece."""
    if not data:
        raise ConnectionResetError("it has ended")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RefusedError("it does not keep to what was agreed")
    if "refusal" in content:
        raise RefusedError(str(content["refusal"]), lasting=bool(content.get("lasting", True)))
    return content


def refusal(error: BaseException) -> "dict[str, Any]":
    """Say why no worker is there, and whether that would be so again."""
    # There may be room for another process later, and another parent may live longer.
    lasting = getattr(error, "lasting", not isinstance(error, OSError))
    text = str(error) or type(error).__name__
    return {"refusal": text[:2000], "lasting": lasting}


def send(connection: socket.socket, content: "dict[str, Any]") -> None:
    """Send one JSON object as a line; a peer that is gone is no error here."""
    try:
        connection.sendall(json.dumps(content).encode() + b"\n")
    except OSError:
        pass


def receive(connection: socket.socket) -> "tuple[dict[str, Any], list[int]]":
    """Read one JSON object, a line, with descriptors beside its first byte.

    Raises:
        OSError: the other side has closed.
    """
    data, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 16)
    while data and not data.endswith(b"\n"):
        piece = connection.recv(MAX_MESSAGE)
        if not piece:
            break
        data += piece
    if not data.endswith(b"\n") or not descriptors:
        raise OSError("the other side has given up this start")
    return json.loads(data), descriptors
