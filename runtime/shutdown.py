"""How a process is asked to stop."""

import asyncio
import signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals() -> asyncio.Event:
    """Give an event that the first SIGTERM or SIGINT sets.

    The first one asks for a clean stop. A second one ends the process at once, as the system does
    by default: Python's handler of SIGINT would raise KeyboardInterrupt, and then wait for threads
    that wait for the very thing that takes too long.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, request_stop)
    return stop
