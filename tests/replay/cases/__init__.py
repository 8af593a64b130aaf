"""The cases whose histories are recorded: each drives real workflows on a path of their own.

A path of workflow code that no case goes through fails `test_paths`. The provisioner is scripted.
"""

from tests.replay.cases import deletions, invocations, preparations, repairs, slots
from tests.replay.cases.runs import Case

CASES: list[Case] = [
    invocations.success,
    invocations.retry,
    invocations.last_failure,
    invocations.vanished_worker,
    invocations.cancelled_while_queued,
    invocations.cancelled_while_running,
    invocations.cancelled_while_provisioned,
    invocations.cancelled_before_the_worker_was_recorded,
    invocations.provisioning_failed_after_the_cancel,
    invocations.cancelled_between_attempts,
    invocations.timed_out_between_attempts,
    invocations.timed_out_while_running,
    invocations.timed_out_while_queued,
    preparations.preparation_pending,
    preparations.preparation_in_a_named_pool,
    preparations.preparation_failed,
    preparations.preparation_of_many,
    preparations.preparation_cancelled_by_hand,
    invocations.refused,
    slots.freed_slot,
    slots.freed_slot_of_a_lost_waiter,
    slots.younger_than_one_that_has_not_asked,
    repairs.stale_execution,
    repairs.started_for_another_pool,
    deletions.deletion_of_idle_project,
    deletions.deletion_waits,
    deletions.deletion_looks_again,
    repairs.terminated_by_hand,
    repairs.sweep_with_nothing_to_do,
    repairs.sweep_with_a_step_that_fails,
]
