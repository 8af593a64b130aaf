"""The names of Temporal's task queues, which all programs must agree on."""


def control_queue(prefix: str) -> str:
    """Name the queue of workflows and registry activities."""
    return f"{prefix}-control"


def provisioner_queue(prefix: str, pool: str) -> str:
    """Name the queue of one pool's provisioner calls: prepare, provision.

    What was asked for before there were the queues below is still served here.
    """
    return f"{prefix}-provision-{pool}"


def watch_queue(provisioner: str) -> str:
    """Name the queue on which the workers of a provisioner queue are watched.

    A watch lasts as long as its worker. On a queue of their own, watches cannot use up the places
    of the calls that end workers.
    """
    return f"{provisioner}-watch"


def termination_queue(provisioner: str) -> str:
    """Name the queue on which the workers of a provisioner queue are ended.

    That takes as long as the workers, or a provisioner that hangs, like. On a queue of their own,
    terminations cannot use up the places of the calls that make workers.
    """
    return f"{provisioner}-terminate"


def sweep_queue(provisioner: str) -> str:
    """Name the queue of a provisioner queue's sweep, which repairs even if all others are full."""
    return f"{provisioner}-sweep"
