"""Runs a control plane under load while its parts are killed, stopped and cut off; then checks it.

The seed decides what is called, what goes wrong and when; how it then comes about differs from run
to run. The exit code is 0 if every invariant holds. See docs/reliability.md.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from runtime.logging import configure_logging
from tests.proofs.chaos.report import say
from tests.proofs.chaos.run import Options, run_chaos


async def _run(options: Options, folder: Path) -> bool:
    """Run, and end what was started also when told to stop."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run_chaos(options, folder)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the plan and the calls; random if not given")
    parser.add_argument("--minutes", type=float, default=5, help="length of the load")
    parser.add_argument(
        "--longest", type=float, default=60, help="seconds that one fault lasts at most"
    )
    parser.add_argument(
        "--one-by-one",
        action="store_true",
        help="instead: each fault once, for 5 seconds; the next when calls succeed again",
    )
    arguments = parser.parse_args()
    configure_logging(level="ERROR")
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed  # noqa: S311 - no secret
    if arguments.one_by_one:
        options = Options(seed=seed, longest=5)
        say("each fault once, for 5 s")
    else:
        options = Options(seed=seed, seconds=arguments.minutes * 60, longest=arguments.longest)
        say(
            f"seed {seed}, {arguments.minutes:g} minutes of load, "
            f"faults of up to {options.longest:g} s"
        )
    folder = Path(tempfile.mkdtemp(prefix="control-plane-chaos-"))
    # Postgres may run as another user, who must get through to its own folder below.
    folder.chmod(0o711)
    good = False
    try:
        good = asyncio.run(_run(options, folder))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped")
    finally:
        if good:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"what the processes have written is kept in {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(_main())
