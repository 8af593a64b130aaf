"""The names of Temporal's task queues, which all programs must agree on."""


def control_queue(prefix: str) -> str:
    """Name the queue of workflows and registry activities."""
    return f"{prefix}-control"


def provisioner_queue(prefix: str, kind: str) -> str:
    """Name the queue of one provisioner kind's calls: prepare, provision, terminate."""
    return f"{prefix}-provision-{kind}"


def watch_queue(provisioner: str) -> str:
    """Name the queue on which the workers of a provisioner queue are watched.

    A watch lasts as long as its worker. On a queue of their own, watches cannot use up the places
    of the calls that end workers.
    """
    return f"{provisioner}-watch"
