"""What a function sees when the control plane ends it before it has returned.

The control plane asks a worker to stop with SIGTERM and kills it after a grace time. The runner
turns the first SIGTERM into one of these exceptions, raised inside the user's function, which may
catch it to clean up. Whatever a function does then, the execution is not tried again unless another
exception leaves it.
"""


class Interrupted(BaseException):
    """The control plane ends this execution.

    Derives from BaseException, as KeyboardInterrupt does, so that `except Exception` in a function
    does not swallow it.
    """


class InvocationCancelled(Interrupted):
    """Somebody cancelled the invocation, its parent, or its project."""


class InvocationTimedOut(Interrupted):
    """The invocation's time limit, counted from its creation, has passed."""
