"""`explore` finds what loses money, and nothing where nothing does."""

from __future__ import annotations

import io
import pickle
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, settings

from temporal_saga.testing import (
    Simulation,
    ViolationError,
    applies_late,
    cancel,
    delivered_late,
    delivered_twice,
    explore,
    fails_after,
    fails_before,
    fault_plans,
    worker_lost,
)
from temporal_saga.testing.explorer._bar import Bar
from temporal_saga.testing.explorer._exploration import Exploration
from tests.testing.bank import (
    Bank,
    ClosedBank,
    Forgetful,
    FreshIds,
    NoReversal,
    Order,
    ParallelTransfer,
    RepeatingShop,
    TracelessBank,
    Transfer,
    UnfencedBank,
)

QUIET = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def conserved(bank: Bank, simulation: Simulation[str]) -> None:
    assert bank.total() == 100, f"{bank.total()} of 100"
    if simulation.status != "completed":
        assert bank.balance == {"A": 100, "B": 0}, f"ended {simulation.status}: {bank.balance}"


@pytest.mark.parametrize("workflow", [Transfer, ParallelTransfer])
def test_two_faults_lose_nothing(workflow: Any) -> None:
    exploration = explore(workflow.run, 30, setup=Bank, check=conserved, faults=2)
    assert (exploration.violations, exploration.untried) == ([], 0)
    assert exploration.tried > 150
    assert exploration.without_compensation == []


def test_a_forgotten_compensation_is_listed() -> None:
    assert explore(Forgetful.run, 30, setup=Bank).without_compensation == ["withdraw"]


def test_the_zombie_that_nothing_refuses() -> None:
    with pytest.raises(ViolationError) as raised:
        explore(Transfer.run, 30, setup=UnfencedBank, check=conserved)
    first = raised.value.exploration.violations[0]
    assert first.plan == (applies_late("withdraw"),)
    message = str(raised.value)
    assert "applied after its undo" in message
    assert "explore(Transfer.run, ..., plan=[applies_late('withdraw')])" in message
    assert first.timeline in message


def test_a_late_repeat_of_what_was_undone_without_a_trace() -> None:
    assert explore(Transfer.run, 30, setup=TracelessBank, check=conserved, faults=1).violations == []
    exploration = explore(Transfer.run, 30, setup=TracelessBank, check=conserved, faults=2, fail=False)
    plans = [violation.plan for violation in exploration.violations]
    assert (fails_before("deposit"), delivered_late("withdraw")) in plans
    assert {plan[-1].kind for plan in plans} == {"delivered_late"}
    assert {violation.kind for violation in exploration.violations} == {"the check objects"}, "to us it is a repeat"


def test_a_plan_runs_again_alone() -> None:
    plan = [applies_late("withdraw")]
    with pytest.raises(ViolationError, match="applied after its undo"):
        explore(Transfer.run, 30, setup=UnfencedBank, plan=plan)
    assert explore(Transfer.run, 30, setup=Bank, plan=plan).violations == []


def test_the_users_check() -> None:
    exploration = explore(Transfer.run, 30, setup=Bank, check=lambda bank, _: bank.balance["B"] == 30, fail=False)
    assert exploration.violations[0].kind == "the check objects"
    assert len(exploration.violations[0].plan) == 1


def test_what_fails_without_any_fault_is_found_first() -> None:
    exploration = explore(Transfer.run, 30, setup=Bank, check=lambda *_: False, fail=False)
    assert exploration.tried == 1
    assert exploration.violations[0].plan == ()
    assert "without any fault" in str(exploration)


def test_how_the_run_without_a_fault_ends() -> None:
    for plan in (None, [], [fails_after("withdraw")]):
        exploration = explore(Transfer.run, 30, setup=ClosedBank, check=conserved, plan=plan, fail=False)
        (violation,) = exploration.violations
        assert (violation.kind, violation.plan, exploration.tried) == ("ends otherwise", (), 1)
        assert violation.message == (
            "it ended failed, and not completed: ActivityError: Activity task failed, "
            'because of Closed: no such account (if it is to end so, say ends="failed")'
        )
    assert explore(Transfer.run, 30, setup=ClosedBank, check=conserved, ends="failed").tried > 10
    exploration = explore(Transfer.run, 30, setup=Bank, ends="cancelled", fail=False)
    assert exploration.violations[0].message.startswith("it ended completed, and not cancelled (if it")


def test_a_bound_on_time_says_what_is_untried() -> None:
    exploration = explore(Transfer.run, 30, setup=Bank, faults=2, within=timedelta(0))
    assert exploration.untried > 0
    assert f"{exploration.untried} plans left untried, and what would follow" in str(exploration)


def test_pruning_says_why() -> None:
    exploration = explore(Transfer.run, 30, setup=Bank, faults=2)
    assert all(count > 0 for count in exploration.pruned.values())
    assert "after one that the workflow cannot see" in str(exploration)


def test_the_error_travels_between_processes() -> None:
    exploration = explore(Transfer.run, 30, setup=Bank, check=lambda *_: False, fail=False)
    error = pickle.loads(pickle.dumps(ViolationError(exploration)))
    assert str(error) == str(ViolationError(exploration))


def test_an_error_of_the_check_is_an_objection_with_its_plan() -> None:
    def check(bank: Bank, simulation: Simulation[str]) -> None:
        if simulation.status == "failed":
            raise KeyError("receipt")

    exploration = explore(Transfer.run, 30, setup=Bank, check=check, fail=False)
    assert {violation.kind for violation in exploration.violations} == {"the check raises"}
    assert exploration.violations[0].message.startswith("KeyError: 'receipt' (tests/testing/test_explore.py:")
    assert exploration.violations[0].plan != ()


def test_an_error_of_the_client_is_an_objection_with_its_plan() -> None:
    async def client(handle: Any) -> None:
        raise KeyError("receipt")

    exploration = explore(Transfer.run, 30, setup=Bank, client=client, fail=False)
    assert [(each.kind, each.plan) for each in exploration.violations] == [("the client raises", ())]


def test_what_the_workflow_was_told_tells_two_runs_apart() -> None:
    """A repeat is answered otherwise: that changes nothing before the next failure."""
    plan = (worker_lost("charge"), fails_before("deposit"))
    exploration = explore(Order.run, 30, setup=RepeatingShop, check=RepeatingShop.refunded_all, faults=2, fail=False)
    assert plan in [violation.plan for violation in exploration.violations]


def test_results_that_vary_are_no_violation() -> None:
    assert explore(Order.run, 30, setup=FreshIds, faults=1).violations == []
    assert explore(Order.run, 30, setup=FreshIds, plan=[delivered_twice("charge")]).violations == []


def test_an_undo_that_never_works_is_found() -> None:
    exploration = explore(Transfer.run, 30, setup=NoReversal, check=conserved, fail=False)
    assert "an undo fails by itself" in {violation.kind for violation in exploration.violations}


def test_a_plan_says_what_it_ran() -> None:
    exploration = explore(Transfer.run, 30, setup=Bank, plan=[fails_after("deposit")])
    assert exploration.tried == 1
    assert str(exploration).startswith("Transfer: the plan [fails_after('deposit')] tried in ")


@pytest.mark.parametrize(
    "plan", [[fails_after("typo")], [fails_after("deposit", nth=7)], [cancel(at=99)], [cancel(at=3), cancel(at=99)]]
)
def test_a_fault_that_finds_nothing_to_strike_is_an_error(plan: Any) -> None:
    with pytest.raises(
        ValueError, match=r"found nothing to strike: .* activations, and calls of (withdraw|no activity)"
    ):
        explore(Transfer.run, 30, setup=Bank, plan=plan)


async def asynchronous(*_: Any) -> Any:
    return Bank()


def generator(*_: Any) -> Any:
    yield Bank()


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "at counts the activations from 1", {"plan": [cancel(at=0)]}),
        (ValueError, "nth counts the calls from 1", {"plan": [fails_after("deposit", nth=0)]}),
        (ValueError, "faults=-1: give 0", {"faults": -1}),
        (ValueError, "unknown kinds.*there are fails_before", {"kinds": ["fails_afterr"]}),
        (ValueError, r"unknown kinds.*signals=\[", {"kinds": ["signal"]}),
        (TypeError, r"kinds=\['cancel'\]", {"kinds": "cancel"}),
        (TypeError, r"signals=\['stop'\]", {"signals": "stop"}),
        (TypeError, "check has to be a plain function", {"check": asynchronous}),
        (TypeError, "check has to be a plain function", {"check": generator, "plan": []}),
        (TypeError, "setup has to be a plain function", {"setup": asynchronous}),
        (TypeError, "setup has to be a plain function", {"setup": generator}),
        (TypeError, "setup has to be a plain function", {"setup": lambda: None}),
        (TypeError, "setup=.*Bank.* is not a function", {"setup": Bank()}),
        (TypeError, "returned, object, has no list of activities", {"setup": object}),
        (TypeError, "explore has no option 'fault': did you mean 'faults'", {"fault": 2}),
        (TypeError, "explore has no option 'activities': they are those of the world", {"activities": []}),
        (TypeError, "explore has no option 'xyz': see explore and simulate", {"xyz": 1}),
        (TypeError, r"give a list, plan=\[fails_after\('deposit'\)\]", {"plan": fails_after("deposit")}),
        (TypeError, "faults='2' is not a number: .* faults=2", {"faults": "2"}),
        (TypeError, r"faults=\[\] is not a number: .* plan=", {"faults": []}),
        (TypeError, r"within=5 is not a timedelta: within=timedelta\(seconds=5\)", {"within": 5}),
    ],
)
def test_a_wrong_argument_is_an_error_that_names_the_fix(error: Any, match: str, options: Any) -> None:
    with pytest.raises(error, match=match):
        explore(Transfer.run, 30, **{"setup": Bank, **options})


# --- Hypothesis ------------------------------------------------------------------------------------------------------


@QUIET
@given(plan=fault_plans(Transfer.run, 30, setup=Bank, faults=3))
def test_property_three_faults_lose_nothing(plan: Any) -> None:
    explore(Transfer.run, 30, setup=Bank, check=conserved, plan=plan, elsewhere=False)


@pytest.mark.deep
@pytest.mark.parametrize("seed", [0, 1])
def test_a_failing_plan_shrinks_to_a_shortest(seed: int) -> None:
    # The second of them first finds an `applies_late` behind a bug that is not needed.
    def loses(plan: Any) -> bool:
        exploration = explore(Transfer.run, 30, setup=UnfencedBank, plan=plan, fail=False, elsewhere=False)
        return bool(exploration.violations)

    plans = fault_plans(Transfer.run, 30, setup=UnfencedBank, faults=3)
    found = find(plans, loses, settings=settings(QUIET, max_examples=500), random=random.Random(seed))
    assert found in ([applies_late("withdraw")], [applies_late("deposit")])


def test_an_option_of_explore_is_none_of_fault_plans() -> None:
    with pytest.raises(TypeError, match="ends= is an option of explore, not of fault_plans"):
        fault_plans(Transfer.run, 30, setup=Bank, ends="failed")


def test_a_plan_strikes_compensations_too() -> None:
    plans = fault_plans(Transfer.run, 30, setup=Bank, faults=2, kinds=["fails_before", "fails_after"])
    found = find(plans, lambda plan: any(":undo" in fault.label for fault in plan), settings=QUIET)
    assert len(found) == 2


# --- the bar ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    exploration = Exploration("Transfer", 2, tried=70)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with Bar(None, stream) as bar:
            bar.begin(2, 200)
            bar.show(100, exploration)  # too early
            monkeypatch.setattr(bar, "_started", bar._started - 2)
            monkeypatch.setattr(bar, "_began", bar._began - 30)
            bar.show(100, exploration)
            bar.show(101, exploration)  # too soon after it
    shown = f"2 of 2 faults [{'#' * 15}{'.' * 15}] 100 of 200 plans, about 30 s left"
    assert terminal.getvalue() == f"\r\x1b[K{shown}\r\x1b[K"
    assert file.getvalue() == ""


def test_without_a_bar_nothing_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    explore(Transfer.run, 30, setup=Bank, faults=1)
    assert capfd.readouterr() == ("", "")


def test_faults_are_written_as_they_are_called() -> None:
    assert repr([fails_after("deposit"), fails_before("a", nth=2), cancel(at=7)]) == (
        "[fails_after('deposit'), fails_before('a', nth=2), cancel(at=7)]"
    )
