"""The command `control-plane list`."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

import click

from control_plane._console.names import complete_function, complete_project
from control_plane._console.output import (
    age,
    json_option,
    print_json,
    remark,
    seconds,
)
from control_plane._console.server import server_options
from control_plane._console.tables import Column, print_table
from control_plane._http.client import Client
from control_plane.models import FunctionInfo, InvocationSummary, Version

PHASES: Final = {
    "RUNNING": ("QUEUED", "PROVISIONING", "RUNNING", "CANCELLING"),
    "TERMINATED": ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"),
}
"""The phases of each status. The API looks for a status, and tables show phases."""


class _Status(click.Choice[str]):
    """A status; one who names a phase is told which status has it."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        for status, phases in PHASES.items():
            if value.upper() in phases and value.upper() not in PHASES:
                self.fail(
                    f"{value.upper()} is a phase, and calls are found by their status: "
                    f"{status} has the phases {', '.join(phases)}",
                    param,
                    ctx,
                )
        return super().convert(value, param, ctx)


@click.command("list", short_help="List projects, functions or calls.")
@click.argument("project", required=False, shell_complete=complete_project)
@click.argument("function", required=False, shell_complete=complete_function)
@click.option("--versions", is_flag=True, help="The versions of PROJECT instead of its functions.")
@click.option("--version", metavar="ID", help="Of this version; of the latest by default.")
@click.option(
    "--status",
    type=_Status(PHASES, case_sensitive=False),
    help="RUNNING: only calls that have not ended, with the phases QUEUED, PROVISIONING, RUNNING "
    "and CANCELLING. TERMINATED: only those that are SUCCEEDED, FAILED, CANCELLED or TIMED_OUT.",
)
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="So many calls at most, the newest ones.",
)
@json_option
@server_options
def list_(
    *,
    client: Client,
    project: str | None,
    function: str | None,
    versions: bool,
    version: str | None,
    status: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List projects, or the functions of PROJECT, or the calls of FUNCTION, the newest first."""
    if project is None and (versions or version):
        raise click.UsageError("--versions and --version are for a PROJECT")
    if function is None and status:
        raise click.UsageError("--status is for the calls of a FUNCTION")
    if versions and (function or version):
        raise click.UsageError("--versions is for a PROJECT alone")
    if project is None:
        _list_projects(client, as_json=as_json)
    elif versions:
        _list_versions(client, project, as_json=as_json)
    elif function is None:
        _list_functions(client.get_version(project, version or "latest"), as_json=as_json)
    else:
        calls = client.iterate_invocations(
            project, function, version=version or "latest", status=status and status.upper()
        )
        found = list(islice(calls, limit + 1))
        if as_json:
            print_json([each.raw for each in found[:limit]])
            return
        print_calls(found[:limit])
        if not found:
            remark("No calls of this version" if status is None else f"No calls are {status}")
        elif len(found) > limit:
            remark(f"There are more; --limit {limit * 10} shows them")


def _list_projects(client: Client, *, as_json: bool) -> None:
    projects = client.list_projects()
    if as_json:
        print_json([each.raw for each in projects])
        return
    if not projects:
        remark("No projects yet; `control-plane deploy DIR --project NAME` makes one")
        return
    print_table(
        (Column("PROJECT"), Column("AGE", no_wrap=True), Column("STATE")),
        [
            (
                each.project_name,
                age(each.creation_time),
                "deleting" if each.deletion_request_time else "",
            )
            for each in projects
        ],
    )


def _list_versions(client: Client, project: str, *, as_json: bool) -> None:
    versions = client.list_versions(project)
    if as_json:
        print_json([each.raw for each in versions])
        return
    if not versions:
        remark("No versions yet; `control-plane deploy DIR --project NAME` makes one")
        return
    print_table(
        (Column("VERSION", no_wrap=True), Column("AGE", no_wrap=True)),
        [(each.version_id, age(each.creation_time)) for each in versions],
    )


def _list_functions(version: Version, *, as_json: bool) -> None:
    if as_json:
        print_json(version.raw)
        return
    remark(f"{version.project_name} {version.version_id}, {age(version.creation_time)} old")
    print_functions(version.functions)


def print_functions(functions: Iterable[FunctionInfo]) -> None:
    """Print functions with their settings and how far their preparation is."""
    found = list(functions)
    print_table(
        (
            Column("FUNCTION"),
            Column("STATE", no_wrap=True),
            Column("CPUS", right=True),
            Column("MEMORY", no_wrap=True, right=True),
            Column("TIMEOUT", no_wrap=True, right=True),
            Column("RETRIES", right=True),
            Column("AT ONCE", right=True),
        ),
        [
            (
                each.function_name,
                state_of(each),
                f"{each.resource_spec.virtual_cpus:g}",
                memory(each.resource_spec.memory_gbs),
                seconds(each.execution_spec.timeout_seconds),
                each.execution_spec.max_retries,
                each.resource_spec.max_concurrency,
            )
            for each in found
        ],
    )
    # All functions of a bundle fail for the same reason, as a rule.
    for error in dict.fromkeys(each.preparation.error for each in found if each.preparation):
        if error is not None:
            remark(error)


def state_of(function: FunctionInfo) -> str:
    """Give how far the preparation of a function is: PENDING, READY or FAILED."""
    return function.preparation.status if function.preparation else function.function_status


def cpus(number: float) -> str:
    """Give a number of CPUs."""
    return f"{number:g} CPU{'' if number == 1 else 's'}"


def memory(gibibytes: float) -> str:
    """Give an amount of memory."""
    return f"{gibibytes:g} GiB" if gibibytes >= 1 else f"{gibibytes * 1024:g} MiB"


def duration_of(call: InvocationSummary) -> str:
    """Give how long a call has taken from its creation to its end, or until now."""
    if call.invocation_status == "TERMINATED":
        return seconds((call.last_update_time - call.creation_time).total_seconds())
    return age(call.creation_time)


def print_calls(calls: Iterable[InvocationSummary]) -> None:
    """Print calls of a function; nothing if there are none."""
    rows = [
        (
            each.invocation_id,
            each.phase,
            age(each.creation_time),
            duration_of(each),
            each.attempts,
            each.phase_detail,
        )
        for each in calls
    ]
    if rows:
        print_table(
            (
                Column("INVOCATION", no_wrap=True),
                Column("PHASE", no_wrap=True),
                Column("AGE", no_wrap=True),
                Column("TOOK", no_wrap=True),
                Column("ATTEMPTS", right=True),
                Column("DETAIL"),
            ),
            rows,
        )
