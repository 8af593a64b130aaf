"""The command `control-plane describe`."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from control_plane._console.foreign import Safe, joined, one_line, raw_option, visible
from control_plane._console.names import complete_function, complete_project
from control_plane._console.output import (
    age,
    coloured,
    cut,
    echo,
    heading,
    is_terminal,
    json_option,
    moment,
    print_json,
    progress_text,
    remark,
    seconds,
)
from control_plane._console.server import server_options
from control_plane._console.tables import Column, print_table
from control_plane._console.tree import Node, Tree, read_tree
from control_plane._http.client import Client
from control_plane.commands.list import (
    cpus,
    duration_of,
    memory,
    print_calls,
    print_functions,
    state_of,
)
from control_plane.models import Execution, FunctionInfo, InvocationInfo

if TYPE_CHECKING:
    from control_plane._console import terminal

_LONG_TEXT = 500
_RECENT_CALLS = 10


@click.command(short_help="Tell all about a call, project or function.")
@click.argument("what", metavar="INVOCATION_ID | PROJECT", shell_complete=complete_project)
@click.argument("function", required=False, shell_complete=complete_function)
@click.option("--version", metavar="ID", help="Of this version; of the latest by default.")
@click.option(
    "--depth",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Generations of calls below it that are shown.",
)
@click.option(
    "--children",
    "most",
    type=click.IntRange(min=0),
    default=50,
    show_default=True,
    help="Calls below it that are shown at most.",
)
@json_option
@raw_option
@server_options
def describe(
    *,
    client: Client,
    what: str,
    function: str | None,
    version: str | None,
    depth: int,
    most: int,
    as_json: bool,
) -> None:
    """Tell all about a call, or about PROJECT, or about FUNCTION of PROJECT.

    Of a call: why it waits, its attempts and how they ended, its error, and what it has called.
    """
    if function is None and what.startswith("inv-"):
        info = client.find_invocation(what)
        tree = read_tree(client, what, depth=depth, most=most)
        if as_json:
            print_json({**info.raw, **tree.as_json()})
        else:
            _describe_call(info, tree)
    elif function is None:
        _describe_project(client, what, version=version, as_json=as_json)
    else:
        _describe_function(client, what, function, version=version or "latest", as_json=as_json)


def _describe_call(info: InvocationInfo, tree: Tree) -> None:
    parent = info.parent_invocation
    where = f"{info.project_name} {info.function_name}"
    _fields(
        ("Invocation", info.invocation_id),
        ("Function", f"{where}, {info.version_id}"),
        ("Phase", coloured(info.phase)),
        ("Detail", info.phase_detail),
        ("In the queue", info.queue_position and f"place {info.queue_position}"),
        ("Created", f"{moment(info.creation_time)}, {age(info.creation_time)} ago"),
        ("Took" if info.has_ended else "Since then", duration_of(info)),
        ("Cancel asked", moment(info.cancellation_request_time)),
        ("Limits", _limits(info)),
        ("Parent", parent and f"{parent.function_name} {parent.invocation_id}"),
        ("Input", visible(cut(info.input, _LONG_TEXT))),
        ("Progress", progress_text(info.progress)),
        (
            "Result" if info.phase == "SUCCEEDED" else "Output so far",
            None if info.output is None else visible(cut(info.output, _LONG_TEXT)),
        ),
        ("Temporal", info.temporal_url),
    )
    if info.executions:
        echo("\n", heading("Executions"))
        print_table(
            (
                Column("#", right=True),
                Column("STATE", no_wrap=True),
                Column("CAUSE", no_wrap=True),
                Column("BEGAN", no_wrap=True),
                Column("TOOK", no_wrap=True),
                Column("EXIT", right=True),
                Column("WORKER"),
                Column("EXECUTION", no_wrap=True),
            ),
            [_execution_row(each) for each in info.executions],
        )
    _print_errors(info)
    _print_tree(tree)


def _limits(info: InvocationInfo) -> str:
    spec, resources = info.execution_spec, info.resource_spec
    return (
        f"timeout {seconds(spec.timeout_seconds)}, {_counted_retries(spec.max_retries)}, "
        f"{cpus(resources.virtual_cpus)}, {memory(resources.memory_gbs)}, "
        f"{resources.max_concurrency} at once"
    )


def _execution_row(execution: Execution) -> Sequence[object]:
    began = execution.execution_start_time or execution.creation_time
    ended = execution.execution_finish_time
    if ended is None and execution.worker_status == "TERMINATED":
        ended = execution.last_update_time
    worker = execution.worker
    names = [] if worker is None else [worker.provisioner, worker.id, worker.host]
    return (
        execution.attempt,
        execution.worker_status,
        execution.cause or execution.outcome,
        moment(began),
        age(began) if ended is None else seconds((ended - began).total_seconds()),
        None if worker is None else worker.exit_code,
        " ".join(name for name in names if name),
        execution.execution_id,
    )


def _print_errors(info: InvocationInfo) -> None:
    """Print the last error in full and, of those before, what differs from it."""
    failed = [each for each in info.executions if each.error_message]
    if not failed:
        return
    last = failed[-1]
    echo("\n", heading(f"Error of attempt {last.attempt}"))
    echo((last.error_message or "").rstrip())
    for each in failed[:-1]:
        first_line = (each.error_message or "").partition("\n")[0]
        if first_line != (last.error_message or "").partition("\n")[0]:
            echo("\n", heading(f"Error of attempt {each.attempt}"), "\n", first_line)


def _print_tree(tree: Tree) -> None:
    if not tree.nodes:
        return
    echo("\n", heading("Invocations made by it, newest first"))
    if is_terminal(sys.stdout):
        # Imported here: rich takes longer to import than the rest of a command.
        from control_plane._console import terminal  # noqa: PLC0415 - see above

        root = terminal.Tree()
        _add_to(root, tree.nodes)
        root.show()
    else:
        for line in _plain_tree(tree.nodes, ""):
            echo(line)
    if tree.is_cut:
        remark(f"Not all are shown: {tree.is_cut}")


def _plain_tree(nodes: Iterable[Node], indent: str) -> Iterator[str]:
    for node in nodes:
        call = node.call
        yield "  ".join(
            (
                indent + one_line(call.function_name),
                call.invocation_id,
                call.phase,
                duration_of(call),
            )
        )
        yield from _plain_tree(node.children, f"{indent}  ")
        if node.has_more:
            yield f"{indent}  ..."


def _add_to(branch: "terminal.Tree", nodes: Iterable[Node]) -> None:
    for node in nodes:
        call = node.call
        child = branch.add(
            call.function_name,
            call_id=call.invocation_id,
            state=call.phase,
            rest=duration_of(call),
        )
        _add_to(child, node.children)
        if node.has_more:
            child.add_more()


def _describe_project(client: Client, project: str, *, version: str | None, as_json: bool) -> None:
    found = client.get_project(project)
    versions = client.list_versions(project)
    shown = client.get_version(project, version or "latest") if versions else None
    if as_json:
        print_json(
            {
                **found.raw,
                "versions": [each.raw for each in versions],
                "version": None if shown is None else shown.raw,
            }
        )
        return
    deleting = found.deletion_request_time
    _fields(
        ("Project", found.project_name),
        ("State", deleting and joined(coloured("deleting"), f" since {moment(deleting)}")),
        ("Created", f"{moment(found.creation_time)}, {age(found.creation_time)} ago"),
        ("Versions", len(versions)),
    )
    if shown is not None:
        title = f"Functions of {shown.version_id}, {age(shown.creation_time)} old"
        echo("\n", heading(title))
        print_functions(shown.functions)


def _describe_function(
    client: Client, project: str, function: str, *, version: str, as_json: bool
) -> None:
    calls = client.list_invocations(project, function, version=version, max_results=_RECENT_CALLS)
    functions = client.get_version(project, calls.version_id).functions
    info = next(each for each in functions if each.function_name == function)
    if as_json:
        print_json(
            {
                "project_name": calls.project_name,
                "version_id": calls.version_id,
                **info.raw,
                "invocations": [each.raw for each in calls.invocations],
            }
        )
        return
    spec, resources = info.execution_spec, info.resource_spec
    _fields(
        ("Function", f"{project} {function}"),
        ("Version", calls.version_id),
        ("State", coloured(state_of(info))),
        ("Trouble", visible((info.preparation and info.preparation.error) or "")),
        ("Code", info.docker_image),
        ("CPUs", f"{resources.virtual_cpus:g}"),
        ("Memory", memory(resources.memory_gbs)),
        ("At once", resources.max_concurrency),
        ("Timeout", seconds(spec.timeout_seconds)),
        ("Retries", _retries(info)),
    )
    if calls.invocations:
        echo("\n", heading("Newest calls"))
        print_calls(calls.invocations)


def _counted_retries(number: int) -> str:
    return f"{number} {'retry' if number == 1 else 'retries'}"


def _retries(function: FunctionInfo) -> str:
    retries, pauses = function.execution_spec.max_retries, function.retry_spec
    if not retries or pauses is None:
        return str(retries)
    text = f"{retries}, the first after {seconds(pauses.initial_interval_seconds)}"
    if pauses.backoff_coefficient != 1:
        text += f", each pause {pauses.backoff_coefficient:g} times the one before"
    if pauses.maximum_interval_seconds is not None:
        text += f", {seconds(pauses.maximum_interval_seconds)} at most"
    return text


def _fields(*fields: tuple[str, object]) -> None:
    """Print what there is to say, a line for each; further lines of a text below its first one.

    What is no `Safe` is put on one line.
    """
    given = [
        (name, value if isinstance(value, Safe) else one_line(str(value)))
        for name, value in fields
        if value not in (None, "")
    ]
    width = max(len(name) for name, _ in given)
    for name, value in given:
        for number, line in enumerate(value.lines()):
            label = (name if number == 0 else "").ljust(width)
            echo(heading(label), "  ", line)
