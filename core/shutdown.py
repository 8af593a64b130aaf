"""How a process is asked to stop."""

import asyncio
import signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals() -> asyncio.Event:
    """Give an event that the first SIGTERM or SIGINT sets.

    The first one asks for a clean stop and puts the default handlers back, so that a second one
    ends the process at once.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop() -> None:
        stop.set()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, request_stop)
    return stop
