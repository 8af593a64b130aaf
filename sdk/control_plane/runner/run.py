"""The course of a worker, from its first line to its exit status."""

import os
import sys
import time

from control_plane._inside.context import Current, enter
from control_plane._inside.progress_report import keep_reports_in
from control_plane.runner.execution import Ending, ending_of, execute
from control_plane.runner.failure import describe, shorten
from control_plane.runner.identity import EnvironmentIsIncompleteError, Identity
from control_plane.runner.progress import ProgressReports
from control_plane.runner.project import find_function
from control_plane.runner.report import NoMoreReports, RefusedReportError, Report
from control_plane.runner.sigterm import Sigterm
from control_plane.runner.streams import flush, prepare_streams, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_EXIT_CODES = {"SUCCEEDED": 0, "FAILED": 1, "ABORTED": 143}
_WRONG_ENVIRONMENT = 2


def main(sigterm: Sigterm) -> "NoReturn":
    """Execute the function that the environment names, report, and end the process.

    Does not wait for threads that the user's code has left behind.
    """
    process_id = os.getpid()
    code = 1
    try:
        code = _work(sigterm, process_id)
    except NoMoreReports as end:
        say(str(end))
        code = end.exit_code
    except BaseException:  # noqa: BLE001 - the process ends below, and must not end silently
        sys.excepthook(*sys.exc_info())
    finally:
        flush()
        os._exit(code)


def _work(sigterm: Sigterm, process_id: int) -> int:
    prepare_streams()
    try:
        identity = Identity(os.environ)
    except EnvironmentIsIncompleteError as error:
        say(str(error))
        return _WRONG_ENVIRONMENT
    report = Report(identity, sigterm)
    function = None
    ending = Ending("FAILED")
    try:
        function = sigterm.call(
            find_function, identity.function_name, folder=identity.project_folder
        )
    except BaseException as error:  # noqa: BLE001 - SystemExit at import, too, is a failure
        ending = ending_of(error)
    input_text = report.start()
    progress = ProgressReports(identity)
    if function is not None:
        enter(_context(identity, report, sigterm))
        keep_reports_in(progress.newest)
        ending = execute(function, input_text, report=report, sigterm=sigterm)
    if os.getpid() != process_id:
        # A child that the user's code has forked has come out of the function, too. The execution
        # belongs to its parent.
        return _EXIT_CODES[ending.outcome]
    progress.flush(seconds=_patience_with_progress(sigterm.arrived_at))
    return _finish(ending, report=report, project_folder=identity.project_folder)


def _patience_with_progress(sigterm_arrived_at: float | None) -> float:
    """Give the seconds that the last progress report may take."""
    if sigterm_arrived_at is None:
        return 5.0
    # What is left of the time to clean up is for the report of the outcome, which comes after this.
    return max(1.0, sigterm_arrived_at + 4.0 - time.time())


def _context(identity: Identity, report: Report, sigterm: Sigterm) -> Current:
    creation_time, timeout_seconds = sigterm.time_limit or (0, 0)
    return Current(
        project=identity.project_name,
        version=identity.version_id,
        function=identity.function_name,
        invocation_id=identity.invocation_id,
        execution_id=identity.execution_id,
        attempt=report.attempt,
        deadline_seconds=creation_time + timeout_seconds,
        api_url=identity.api_url,
        api_key=identity.api_key,
    )


def _finish(ending: Ending, *, report: Report, project_folder: str) -> int:
    message = None
    if ending.error is not None:
        message = describe(ending.error, project_folder=project_folder)
        say(f"{ending.outcome} {message}")
    error_message = shorten(message) if message and ending.outcome == "FAILED" else None
    try:
        report.finish(ending.outcome, final_output=ending.output, error_message=error_message)
    except RefusedReportError as refusal:
        text = f"OutputError: The API refused the report of the outcome {ending.outcome}: {refusal}"
        say(text)
        try:
            report.finish("FAILED", error_message=shorten(text))
        except RefusedReportError as second:
            raise NoMoreReports(f"the API refused finish: {second}", exit_code=5) from None
        return _EXIT_CODES["FAILED"]
    return _EXIT_CODES[ending.outcome]
