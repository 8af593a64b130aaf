"""Ports for servers that tests start."""

from standalone.servers.ports import free_ports


def free_port() -> int:
    """Choose a port that nothing listens on at this moment; see `free_ports`."""
    return free_ports(1)[0]
