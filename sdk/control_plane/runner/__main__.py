"""Starts the runner, also where nothing but this file's path is known."""

import os
import sys


def _add_home_to_path() -> None:
    # The path is left unresolved: a provisioner may show a worker a folder that holds nothing but a
    # link to this package, and whatever lies beside the real one must stay out of sight.
    runner_folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - fast start
    home = os.path.dirname(os.path.dirname(runner_folder))  # noqa: PTH120 - fast start
    # Without -I the interpreter puts the script's folder first, where our modules shadow others.
    sys.path[:] = [entry for entry in sys.path if entry not in (runner_folder, home)]
    sys.path.append(home)


if __name__ == "__main__":
    if not __package__:
        _add_home_to_path()
    # Before the other imports, which take most of the start: a signal that comes meanwhile is kept.
    from control_plane.runner.sigterm import Sigterm

    sigterm = Sigterm()
    sigterm.install()

    from control_plane.runner.run import main

    main(sigterm)
