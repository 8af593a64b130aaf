from collections import defaultdict

import pytest

from tests.proofs.chaos.faults import Kind, one_by_one, plan_faults

TARGETS = {
    "postgres": (Kind.KILL, Kind.STOP, Kind.KILL_CHILD),
    "api-1": (Kind.KILL, Kind.TERM, Kind.STOP),
    "link": (Kind.REFUSE, Kind.SILENCE, Kind.DELAY),
}


def test_a_seed_gives_the_same_plan_again_and_another_one_another() -> None:
    first, second, other = (
        plan_faults(seed, seconds=300, longest=60, targets=TARGETS) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


@pytest.mark.parametrize("seed", range(20))
def test_faults_fit_into_the_load_and_one_thing_has_one_fault_at_a_time(seed: int) -> None:
    plan = plan_faults(seed, seconds=600, longest=60, targets=TARGETS)

    free_at: defaultdict[str, float] = defaultdict(float)
    for fault in plan:
        assert fault.kind in TARGETS[fault.target]
        assert 0 <= fault.seconds <= 60
        assert fault.until <= 600.1
        assert fault.at >= free_at[fault.target]
        free_at[fault.target] = fault.until


def test_all_there_is_comes_about() -> None:
    plans = [
        fault
        for seed in range(5)
        for fault in plan_faults(seed, seconds=600, longest=60, targets=TARGETS)
    ]

    assert {(fault.target, fault.kind) for fault in plans} == {
        (target, kind) for target, kinds in TARGETS.items() for kind in kinds
    }
    assert any(fault.seconds == 60 for fault in plans)


def test_one_by_one_is_each_kind_of_each_target() -> None:
    plan = one_by_one(seconds=5, targets=TARGETS)

    assert len(plan) == len({str(fault) for fault in plan}) == 9
