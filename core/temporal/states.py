"""What Temporal knows about our workflows, for the comparison with the registry."""

from dataclasses import dataclass
from datetime import timedelta

from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHistoryEventFilterType
from temporalio.service import RPCError, RPCStatusCode

from core.ids import InvocationId
from core.temporal.names import INVOCATION
from core.temporal.queues import control_queue

_PAGE = 1000
_RPC_TIMEOUT = timedelta(seconds=10)
_SERVER = "history-service"
"""Who has terminated a workflow that had reached a limit of the server. (Server 1.32)"""


@dataclass(frozen=True, kw_only=True)
class WorkflowState:
    """The latest run of a workflow."""

    is_open: bool
    """Also while it waits for its next run, after one that has failed."""
    cancel_requested: bool
    ended_by_hand: bool
    """It was terminated or cancelled, and not by Temporal itself. Only a person does that to a
    workflow of ours whose rows do not say so."""


class WorkflowStates:
    """Reads the workflows of one control plane.

    Args:
        client: the connection to Temporal.
        task_queue: prefix of the queues' names; others' workflows in the namespace are not seen.
    """

    def __init__(self, client: Client, *, task_queue: str) -> None:
        self._client = client
        self._queue = control_queue(task_queue)

    async def open_invocations(
        self, *, after: InvocationId | None, up_to: InvocationId | None
    ) -> set[InvocationId]:
        """Name the invocations in a range of ids whose workflows are open, of all kinds.

        The list may be some seconds old: `look` at a workflow before anything is done about it.

        Args:
            after: only greater ids; None for the first.
            up_to: only this id and smaller ones; None for the last.

        Raises:
            RPCError: Temporal does not answer.
        """
        query = (
            f"WorkflowType = '{INVOCATION}' AND ExecutionStatus = 'Running'"
            f" AND TaskQueue = '{self._queue}'"
        )
        if after is not None:
            query += f" AND WorkflowId > '{after}'"
        if up_to is not None:
            query += f" AND WorkflowId <= '{up_to}'"
        # Not `Client.list_workflows`: it builds much for each workflow, and we need only ids.
        found: set[InvocationId] = set()
        token = b""
        while True:
            page = await self._client.workflow_service.list_workflow_executions(
                ListWorkflowExecutionsRequest(
                    namespace=self._client.namespace,
                    query=query,
                    page_size=_PAGE,
                    next_page_token=token,
                ),
                timeout=_RPC_TIMEOUT,
            )
            found.update(InvocationId(one.execution.workflow_id) for one in page.executions)
            token = page.next_page_token
            if not token:
                return found

    async def look(self, workflow_id: str) -> WorkflowState | None:
        """Say how a workflow is now, or None if Temporal does not know it (any more).

        Raises:
            RPCError: Temporal does not answer.
        """
        handle = self._client.get_workflow_handle(workflow_id)
        try:
            seen = await handle.describe(rpc_timeout=_RPC_TIMEOUT)
            ended_by_hand = seen.status is WorkflowExecutionStatus.CANCELED or (
                seen.status is WorkflowExecutionStatus.TERMINATED
                and not await self._was_terminated_by_the_server(workflow_id, seen.run_id)
            )
        except RPCError as error:
            # Perhaps only now, between the two questions.
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        return WorkflowState(
            is_open=seen.status is WorkflowExecutionStatus.RUNNING,
            cancel_requested=seen.raw_description.workflow_extended_info.cancel_requested,
            ended_by_hand=ended_by_hand,
        )

    async def _was_terminated_by_the_server(self, workflow_id: str, run_id: str) -> bool:
        """Say whether Temporal has terminated a run because its history had grown too long."""
        events = self._client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history_events(
            event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT, rpc_timeout=_RPC_TIMEOUT
        )
        return any(
            [
                event.workflow_execution_terminated_event_attributes.identity == _SERVER
                async for event in events
            ]
        )
