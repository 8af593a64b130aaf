"""Shows how far a `map` is: with a bar on the terminal, or through a function of the caller's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[int, int | None], None]


@contextmanager
def reporting(progress: bool | OnProgress) -> Iterator[OnProgress]:
    """Give the function that is told how far it is.

    Args:
        progress: such a function; or True for a bar, which needs `rich` and a terminal; or False.
    """
    if callable(progress):
        yield progress
        return
    if progress:
        try:
            # Imported here: it is an optional package.
            from rich.console import Console  # noqa: PLC0415, TID251 - see above; prints no text
            from rich.progress import Progress  # noqa: PLC0415 - see above
        except ImportError:
            pass
        else:
            console = Console(stderr=True)
            if console.is_terminal:
                with Progress(console=console) as bar:
                    task = bar.add_task("calls", total=None)
                    yield lambda done, total: bar.update(task, completed=done, total=total)
                return
    yield _nothing


def _nothing(done: int, total: int | None) -> None:
    del done, total
