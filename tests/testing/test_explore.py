"""`explore` finds what loses money, and nothing where nothing does."""

from __future__ import annotations

import io
import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, find, given, settings

from temporal_saga.testing import (
    Simulation,
    ViolationError,
    applies_late,
    cancel,
    explore,
    fails_after,
    fails_before,
    fault_plans,
)
from temporal_saga.testing._explore import Exploration, _Bar
from tests.testing.bank import Bank, ParallelTransfer, Transfer, UnfencedBank

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


def test_the_zombie_that_nothing_refuses() -> None:
    with pytest.raises(ViolationError) as raised:
        explore(Transfer.run, 30, setup=UnfencedBank, check=conserved)
    first = raised.value.exploration.violations[0]
    assert first.plan == (applies_late("withdraw"),)
    message = str(raised.value)
    assert "applied after its undo" in message
    assert "explore(Transfer.run, ..., plan=[applies_late('withdraw')])" in message
    assert first.timeline in message


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


# --- Hypothesis ------------------------------------------------------------------------------------------------------


@QUIET
@given(plan=fault_plans(Transfer.run, 30, setup=Bank, faults=3))
def test_property_three_faults_lose_nothing(plan: Any) -> None:
    explore(Transfer.run, 30, setup=Bank, check=conserved, plan=plan)


def test_a_failing_plan_shrinks_to_a_shortest() -> None:
    def loses(plan: Any) -> bool:
        return bool(explore(Transfer.run, 30, setup=UnfencedBank, plan=plan, fail=False).violations)

    plans = fault_plans(Transfer.run, 30, setup=UnfencedBank, faults=3)
    assert find(plans, loses, settings=settings(QUIET, max_examples=500)) == [applies_late("withdraw")]


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
        with _Bar(None, stream) as bar:
            bar.show(1, 1, 2, exploration)  # too early
            monkeypatch.setattr(bar, "_started", bar._started - 2)
            bar.show(1, 1, 2, exploration)
            bar.show(1, 2, 2, exploration)  # too soon after it
    assert terminal.getvalue() == f"\r\x1b[K1 of 2 faults [{'#' * 15}{'.' * 15}] 70 plans\r\x1b[K"
    assert file.getvalue() == ""


def test_without_a_bar_nothing_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    explore(Transfer.run, 30, setup=Bank, faults=1)
    assert capfd.readouterr() == ("", "")


def test_faults_are_written_as_they_are_called() -> None:
    assert repr([fails_after("deposit"), fails_before("a", nth=2), cancel(at=7)]) == (
        "[fails_after('deposit'), fails_before('a', nth=2), cancel(at=7)]"
    )
