"""`explore(..., runs=2)`: what runs of one workflow id, one after the other, do to each other in one world."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio import activity, workflow

from temporal_saga import Rejected, Saga, current_step, presets
from temporal_saga.testing import Exploration, Simulation, explore, simulate

KINDS: Any = ["fails_before", "fails_after", "restart", "delivered_late"]


class Till:
    """What is charged. One of its keys is not the step's: it is the same in each run of a workflow id."""

    def __init__(self, shared: str = "") -> None:
        self.charged: dict[str, set[str]] = {}
        self.refunded: set[str] = set()
        self.shared = shared
        self.activities = [self.charge, self.refund, self.ship]

    def key_of(self, what: str) -> str:
        return activity.info().workflow_id or "" if what == self.shared else current_step().forward_key or ""

    @activity.defn
    async def charge(self) -> str:
        if self.key_of("what is refused") in self.refunded:
            raise Rejected("it was refunded before it came")
        self.charged[self.key_of("a charge")] = {activity.info().workflow_id or "", current_step().key}
        return "charged"

    @activity.defn
    async def refund(self) -> None:
        self.refunded.add(self.key_of("what is refused"))
        key = self.key_of("a refund")
        self.charged = {each: names for each, names in self.charged.items() if key not in names}

    @activity.defn
    async def ship(self) -> None: ...


@workflow.defn
class Buy:
    @workflow.run
    async def run(self) -> str:
        async with Saga(activity_options=presets.standard()) as saga:
            await saga.execute_activity_method(Till.charge, compensation=Till.refund)
            await saga.execute_activity_method(Till.ship)
        return workflow.info().run_id


def paid(till: Till, simulation: Simulation[str]) -> None:
    assert len(till.charged) == sum(run.status == "completed" for run in simulation.runs)


def explored(shared: str = "", **options: Any) -> Exploration:
    given: dict[str, Any] = {"setup": lambda: Till(shared), "check": paid, "kinds": KINDS, "runs": 2, "fail": False}
    return explore(Buy.run, **{**given, **options}, elsewhere=False)


def test_runs_with_keys_of_their_own_do_nothing_to_each_other() -> None:
    """Each plan is one plan, whichever run it strikes; two runs may come to two results."""
    both = explored(faults=2)
    assert both.violations == []
    assert both.tried == explored(runs=1, faults=2).tried


@pytest.mark.parametrize(
    ("shared", "found"),
    [
        ("a charge", ("the check objects", [])),  # the second charge is taken for a repeat of the first
        ("a refund", ("the check objects", ["fails_before"])),  # the second run's undo takes the first one's money back
        ("what is refused", ("ends otherwise", ["fails_before"])),  # the first run was undone: the second is refused
    ],
)
def test_a_key_that_both_runs_share_is_found(shared: str, found: tuple[str, list[str]]) -> None:
    """It is not found with one run in a world, and the timelines show both runs."""
    assert explored(shared, runs=1, faults=2).violations == []
    first = explored(shared).violations[0]
    assert (first.kind, [fault.kind for fault in first.plan]) == found
    assert "run 1:" in first.timeline
    assert "run 2:" in first.timeline
    if first.kind == "ends otherwise":
        assert "(in run 2 of 2)" in first.message
    again = explored(shared, plan=first.plan).violations
    assert [each.headline.partition("\n")[0] for each in again] == [first.headline.partition("\n")[0]]


def test_two_simulations_in_one_world() -> None:
    """Another number gives other ids of runs and other keys, for one workflow id."""
    till = Till()
    one, two = (simulate(Buy.run, activities=till.activities, run=number) for number in (1, 2))
    assert {call.workflow_id for call in (*one.calls, *two.calls)} == {"workflow"}
    assert set(one.run_ids).isdisjoint(two.run_ids)
    assert len(till.charged) == 2
    assert one.runs == [one]
    again = simulate(Buy.run, activities=Till().activities, run=2)
    assert (again.run_ids, [call.key for call in again.calls]) == (two.run_ids, [call.key for call in two.calls])


@pytest.mark.parametrize(
    ("error", "match", "runs"), [(TypeError, "runs='2' is not a number", "2"), (ValueError, "runs=0: give 1", 0)]
)
def test_a_wrong_number_of_runs_names_the_fix(error: Any, match: str, runs: Any) -> None:
    with pytest.raises(error, match=match):
        explored(runs=runs)
