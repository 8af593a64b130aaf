"""Deleting a project: cancel all that runs in it, wait until nothing does, delete its rows.

Nothing here polls. The transition that ends an invocation of a project that is being deleted wakes
this workflow (`registry.transitions.executions`), which then looks again; a slow timer makes up for
a lost wake.
"""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.deletion import DeletionActivities
    from core.ids import FunctionId
    from core.messages import ProjectCancelRequest, ProjectDeletionInput, ProjectRowsRequest
    from core.temporal.names import PROJECT_DELETION
    from core.text import code_in_markdown
    from workflows.policies import REGISTRY_RETRIES

_PAUSE = timedelta(seconds=1)
"""Between two looks at least, so that many wakes at once lead to few looks."""


@workflow.defn(name=PROJECT_DELETION)
class ProjectDeletionWorkflow:
    """Deletes one project; ends when its name is free."""

    @workflow.init
    def __init__(self, deletion: ProjectDeletionInput) -> None:
        self._deletion = deletion
        self._deleted = deletion.deleted
        self._wakes = 0

    @workflow.signal
    def wake(self) -> None:
        """An invocation of the project has ended: look again."""
        self._wakes += 1

    @workflow.run
    async def run(self, deletion: ProjectDeletionInput) -> str:
        """Delete it; returns a sentence for the UI."""
        while True:
            seen, looked_at = self._wakes, workflow.now()
            running = await self._cancel_all()
            if running:
                self._explain(f"**Waiting** for {running} running invocations to end")
                await self._wait_for_wake(seen)
                pause = looked_at + _PAUSE - workflow.now()
                if pause > timedelta(0):
                    await workflow.sleep(pause, summary="more may end")
            elif await self._delete_some():
                summary = f"deleted, with {self._deleted} invocations"
                self._explain(f"**Done**: {summary}")
                return summary
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(deletion.model_copy(update={"deleted": self._deleted}))

    async def _cancel_all(self) -> int:
        """Cancel all invocations; returns how many have a worker that is still to end."""
        ended = running = 0
        start: FunctionId | None = None
        while True:
            cancelled = await workflow.execute_activity_method(
                DeletionActivities.cancel_project,
                ProjectCancelRequest(project_id=self._deletion.project_id, from_function=start),
                start_to_close_timeout=timedelta(minutes=5),
                heartbeat_timeout=timedelta(seconds=self._deletion.heartbeat_seconds),
                retry_policy=REGISTRY_RETRIES,
                summary="cancel what runs",
            )
            ended += cancelled.ended
            running += cancelled.running
            start = cancelled.next_function
            if start is None:
                return running
            self._explain(f"**Cancelling**: {ended} waiting invocations ended")

    async def _delete_some(self) -> bool:
        """Delete rows for some seconds; returns whether all are gone."""
        rows = await workflow.execute_activity_method(
            DeletionActivities.delete_project_rows,
            ProjectRowsRequest(project_id=self._deletion.project_id),
            start_to_close_timeout=timedelta(minutes=5),
            heartbeat_timeout=timedelta(seconds=self._deletion.heartbeat_seconds),
            retry_policy=REGISTRY_RETRIES,
            summary="delete rows",
        )
        self._deleted += rows.invocations
        self._explain(f"**Deleting**: {self._deleted} invocations deleted")
        return rows.complete

    async def _wait_for_wake(self, seen: int) -> None:
        try:
            await workflow.wait_condition(
                lambda: self._wakes > seen,
                timeout=timedelta(seconds=self._deletion.look_again_seconds),
                timeout_summary="look again",
            )
        except TimeoutError:
            return

    def _explain(self, text: str) -> None:
        name = code_in_markdown(self._deletion.project_name)
        workflow.set_current_details(f"{name}\n\n{text}")
