"""The words for the states of functions, invocations and executions.

The contract's enums (`FunctionStatus`, `InvocationStatus`, `WorkerStatus`, `Outcome`) are closed:
existing clients reject values that they do not know. New facts go into `Phase` and `Cause`, which
are served in fields of their own.
"""

from enum import StrEnum


class FunctionStatus(StrEnum):
    """Contract: whether invocations of a function may run."""

    PENDING = "PENDING"
    READY = "READY"


class PreparationStatus(StrEnum):
    """How far a function's preparation is; FAILED is shown to contract clients as PENDING."""

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"


class InvocationStatus(StrEnum):
    """Contract: RUNNING until the last execution has ended, then TERMINATED."""

    RUNNING = "RUNNING"
    TERMINATED = "TERMINATED"


class WorkerStatus(StrEnum):
    """Contract: the state of the worker of one execution."""

    PENDING = "PENDING"
    PROVISIONING = "PROVISIONING"
    RUNNING = "RUNNING"
    TERMINATED = "TERMINATED"


class Outcome(StrEnum):
    """Contract: what a worker reported. No outcome on a TERMINATED worker means it vanished."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    ABORTED = "ABORTED"


class Phase(StrEnum):
    """Where an invocation is, finer than `InvocationStatus`."""

    QUEUED = "QUEUED"
    PROVISIONING = "PROVISIONING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


class QueueReason(StrEnum):
    """Why a QUEUED invocation waits."""

    NEW = "new"
    """Its workflow has not asked for a slot yet."""
    FUNCTION_LIMIT = "function_limit"
    """The function's max_concurrency is in use."""
    OFFERED = "called"
    """A slot is held free for it; its workflow has been told to ask again."""
    WORKFLOW_LOST = "workflow_lost"
    """It was offered a slot, but its workflow is gone: others pass it until it is started again."""
    FUNCTION_NOT_READY = "function_not_ready"
    BACKOFF = "backoff"
    WORKFLOW_LEFT = "workflow_left"
    """Only in rows of older servers, which now have `workflow_to_end`: it waits no more."""


class Cause(StrEnum):
    """Why an execution ended."""

    SUCCEEDED = "succeeded"
    USER_ERROR = "user_error"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"
    OUT_OF_MEMORY = "out_of_memory"
    PROVISIONING_FAILED = "provisioning_failed"


class InterruptReason(StrEnum):
    """Why the control plane ends a worker that has not ended by itself."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
