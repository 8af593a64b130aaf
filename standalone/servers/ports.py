"""Ports on the loopback interface."""

import re
import socket
from contextlib import ExitStack
from pathlib import Path

LOOPBACK = "127.0.0.1"

_TCP_LISTEN = "0A"


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Connections of an earlier server in TIME_WAIT do not count as taken; a listener does.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        # Two sockets with SO_REUSEADDR may both bind a port; only one of them may listen.
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def free_ports(count: int) -> list[int]:
    """Choose different ports that nothing listens on at this moment.

    Another process may take one before it is used: check afterwards with `listens`, and try again.
    """
    with ExitStack() as held:
        listeners = [held.enter_context(_listener(0)) for _ in range(count)]
        return [int(listener.getsockname()[1]) for listener in listeners]


def port_is_free(port: int) -> bool:
    """Say whether a server could listen on the port of the loopback interface now.

    False also for a port that this user may not use, such as one below 1024.
    """
    try:
        _listener(port).close()
    except OSError:
        return False
    return True


def listens(pid: int, port: int) -> bool:
    """Say whether that very process listens on the port of the loopback interface.

    A connection alone does not tell: another server of the same kind may have taken the port just
    before. False if the process does not exist or belongs to another user.
    """
    try:
        sockets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        # Also when one of the files was closed while we looked. The caller asks again.
        return False
    # The kernel prints the address as one number in its own byte order; ours is 127.0.0.1 or any.
    address = re.compile(rf"(0100007F|7F000001|00000000):{port:04X}")
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[3] == _TCP_LISTEN and address.fullmatch(fields[1]):
            return f"socket:[{fields[9]}]" in sockets
    return False
