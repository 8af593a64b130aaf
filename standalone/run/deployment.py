"""The deployment of a `control-plane run`: the folder of its function, and how far it is."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from control_plane._deploy.bundle import survey
from control_plane._http.client import Client
from control_plane.deploy import Deployment, Stage, deploy, size_text
from control_plane.errors import BadRequestError

from standalone.errors import StandaloneError
from standalone.run.display import Display
from standalone.run.target import Target

T = TypeVar("T")

_MOST_BYTES: Final = 2**30
_MOST_FILES: Final = 100_000
"""More than any server takes. Beyond it nothing is read, let alone uploaded."""


class DeploymentStoppedError(Exception):
    """The deployment ends here, since it was interrupted."""


async def deploy_folder(
    target: Target, client: Client, *, project: str, display: Display, stop: asyncio.Event
) -> Deployment:
    """Deploy the folder of a function, and see that the function is ready.

    Args:
        target: the function.
        client: the connection to the server.
        project: the name of the project on the server.
        display: where to show how far it is.
        stop: ends the deployment when it is set.

    Raises:
        DeploymentStoppedError: `stop` was set.
        ControlPlaneError: it cannot be deployed.
        StandaloneError: the folder is too large, or the function is not ready.
    """
    loop = asyncio.get_running_loop()

    def report(stage: Stage, text: str) -> None:
        if stop.is_set():
            raise DeploymentStoppedError
        line = {
            "find": f"Looking for functions in {target.file.name} ...",
            "bundle": f"Reading {folder} ...",
            "upload": f"Uploading: {text}",
            "register": "Registering a version ...",
            "prepare": f"Preparing: {text}",
        }[stage]
        # Of these only what is in the way of the preparation matters: `trouble` in `deploy`.
        show = partial(display.status, line, matters=stage == "prepare" and ";" in text)
        loop.call_soon_threadsafe(show)

    with tempfile.TemporaryDirectory(prefix="control-plane-run-") as temporary:
        folder, text = target.folder, ""
        if target.folder_is_no_project:
            folder = Path(temporary)
            shutil.copy2(target.file, folder)
            text = f" alone, since {target.folder} is no folder of one project"
        size = await asyncio.to_thread(survey, folder, files=_MOST_FILES, size=_MOST_BYTES)
        if not size.is_complete:
            raise StandaloneError(
                f"{target.folder} has more than {size.files - 1:,} files or "
                f"{size_text(_MOST_BYTES)}. Put {target.file.name} into a folder of its own, "
                "or name what does not belong to it in .gitignore or .controlplaneignore"
            )
        display.say(
            f"Deploying {target.file if text else target.folder}{text} "
            f"({size.files:,} file{'s' * (size.files != 1)}, {size_text(size.size)}) "
            f"as project {project}"
        )
        try:
            deployed = await _in_thread(
                lambda: deploy(
                    client,
                    folder,
                    project=project,
                    modules=[target.module],
                    report=report,
                )
            )
        except BadRequestError as error:
            if error.status != 413:
                raise
            raise StandaloneError(
                f"{error.detail}. The largest: "
                + ", ".join(f"{name} ({size_text(each)})" for name, each in size.largest)
                + ". Name what does not belong to it in .gitignore or .controlplaneignore"
            ) from None
    _check(deployed, target)
    return deployed


def _check(deployed: Deployment, target: Target) -> None:
    """See that the function is there and ready.

    Raises:
        StandaloneError: it is not.
    """
    states = {function.name: function for function in deployed.functions}
    state = states.get(target.function_name)
    if state is None:
        raise StandaloneError(
            f"{target.function_name} is not among the functions of {target.folder}: "
            f"{', '.join(sorted(states))}"
        )
    if state.status != "READY":
        raise StandaloneError(
            f"{target.name} cannot be prepared: {state.error}"
            if state.status == "FAILED"
            else f"{target.name} is not ready yet: {state.error or 'it takes too long'}"
        )


async def _in_thread(work: Callable[[], T]) -> T:
    """Do something that blocks; who stops waiting for it does not wait for its end, either."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # there is one without an error

    def program() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed over
            failure = error
        # The loop may be closed by then.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=program, name="control-plane-run", daemon=True).start()
    return await done
