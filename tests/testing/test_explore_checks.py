"""What `explore` objects to, on runs made by hand: each rule with a run that keeps it and one that breaks it."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
from temporalio.exceptions import ApplicationError

from temporal_saga import SagaReport, StepReport
from temporal_saga.testing.explorer._checks import Known, check_replay, check_run, undo_failed
from temporal_saga.testing.simulator._faults import applies_late, bug_after, delivered_late, fails_after, fails_before
from temporal_saga.testing.simulator._trace import Attempt, Call


class Tape:
    """A run made by hand: calls, in the order of their making."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.order = 0

    def _next(self) -> int:
        self.order += 1
        return self.order

    def _call(self, name: str, phase: Any, state: Any, ran: bool, *, ends: bool = True) -> Call:
        key = str(uuid5(NAMESPACE_OID, name))
        label = name if phase == "do" else f"{name}:{phase}"
        nth = 1 + sum(call.label == label for call in self.calls)
        call = Call(label, nth, "activity", name, f"{name}:{phase}:{key}", "run", len(self.calls) + 1)
        call.name, call.phase, call.key, call.forward_key, call.state = name, phase, key, key, state
        attempt = Attempt(1, timedelta(), began_order=self._next(), ran=ran)
        if ends:
            attempt.ran_order = self._next() if ran else None
            attempt.ended_order = self._next()
        call.attempts = [attempt]
        self.calls.append(call)
        return call

    def do(self, name: str, state: str = "completed", *, ran: bool = True, ends: bool = True) -> Call:
        return self._call(name, "do", state, ran, ends=ends)

    def undo(self, name: str, state: str = "completed", *, ran: bool = True) -> Call:
        return self._call(name, "undo", state, ran)

    def ends_late(self, call: Call) -> None:
        """The last attempt of a call ends now, and its function has run."""
        call.attempts[-1].ran, call.attempts[-1].ran_order = True, self._next()
        call.attempts[-1].ended_order = self._next()

    def applies_late(self, call: Call, *, refused: bool = False) -> None:
        late = Attempt(1, timedelta(), began_order=self._next(), late=True, ran=not refused)
        late.ran_order = None if refused else self._next()
        late.ended_order = self._next()
        call.attempts.append(late)

    def run(self, status: str = "failed", *reports: SagaReport, faults: Any = (), **more: Any) -> Any:
        """The run as a simulation shows it."""
        error = more.pop("error", ApplicationError("boom", type="Boom"))

        def result() -> Any:
            if status == "completed":
                return "result"
            raise error

        more = {"waiting_for": "", "cancel_requested": False, "run_ids": ["run"], "commands": [], "parked": [], **more}
        return SimpleNamespace(
            status=status, calls=self.calls, reports=list(reports), faults=faults, result=result, **more
        )


def report(state: Any, *steps: tuple[str, str, str | None]) -> SagaReport:
    """A saga's report: of each step its name, its state and its undo's."""
    return SagaReport(
        "saga",
        state,
        [
            StepReport(name, str(uuid5(NAMESPACE_OID, name)), is_, None if undo is None else f"un{name}", undo)
            for name, is_, undo in steps
        ],
    )


def kinds(simulation: Any, known: Known | None = None, plan: Any = ()) -> list[str]:
    """What is wrong, in doubt or not, as kinds."""
    return [objection.kind for objection in check_run(simulation, tuple(plan), known or Known())]


A_DONE = ("a", "APPLIED", "DONE")
B_DONE = ("b", "APPLIED", "DONE")


def test_undone_once_and_newest_first_is_right() -> None:
    tape = Tape()
    tape.do("a"), tape.do("b"), tape.undo("b"), tape.undo("a")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE, B_DONE))) == []
    assert kinds(tape.run("failed")) == []  # by hand


def test_an_effect_that_nothing_undid() -> None:
    tape = Tape()
    tape.do("a"), tape.do("b"), tape.undo("b")
    known = Known(compensated={"a"})
    assert kinds(tape.run("failed", report("COMPENSATED", ("a", "NOT_APPLIED", None), B_DONE)), known) == ["not undone"]
    assert kinds(tape.run("cancelled", cancel_requested=True), known) == ["half undone"]
    assert kinds(tape.run("completed"), known) == []  # by hand it may be meant so


def test_what_depends_on_a_compensation_is_in_doubt() -> None:
    tape = Tape()
    tape.do("a")
    (objection,) = check_run(tape.run("failed"), (), Known())
    assert (objection.kind, objection.if_compensated) == ("not undone", "a")


def test_a_refused_effect_is_none() -> None:
    tape = Tape()
    tape.do("a", "failed", ran=False)
    assert kinds(tape.run("failed")) == []


def test_undone_twice() -> None:
    tape = Tape()
    tape.do("a"), tape.undo("a"), tape.undo("a")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE))) == ["undone twice"]


def test_a_repeat_under_one_key_counts_once() -> None:
    tape = Tape()
    tape.do("a")
    tape.undo("a").attempts.append(Attempt(2, timedelta(), began_order=9, ran_order=10, ended_order=11, ran=True))
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE))) == []


def test_the_wrong_order() -> None:
    tape = Tape()
    tape.do("a"), tape.do("b"), tape.undo("a"), tape.undo("b")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE, B_DONE))) == ["wrong order"]


def test_two_sagas_have_no_order_between_them() -> None:
    tape = Tape()
    tape.do("a"), tape.do("b"), tape.undo("a"), tape.undo("b")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE), report("COMPENSATED", B_DONE))) == []


def test_a_savepoint_is_undone_before_what_comes_after_it() -> None:
    tape = Tape()
    tape.do("a"), tape.undo("a"), tape.do("b"), tape.undo("b")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE, B_DONE))) == []


def test_steps_that_overlapped_may_be_undone_in_any_order() -> None:
    tape = Tape()
    first = tape.do("a", ends=False)
    tape.do("b")
    tape.ends_late(first)
    tape.undo("a"), tape.undo("b")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE, B_DONE))) == []


def test_an_undo_that_overtakes_its_step() -> None:
    tape = Tape()
    step = tape.do("a", "cancelled", ran=False, ends=False)
    tape.undo("a")
    tape.ends_late(step)
    found = kinds(tape.run("failed", report("COMPENSATED", ("a", "UNKNOWN", "DONE"))))
    assert found == ["undone too early"]


@pytest.mark.parametrize(("refused", "found"), [(False, ["applied after its undo"]), (True, [])])
def test_the_zombie_stands_unless_something_refuses_it(refused: bool, found: list[str]) -> None:
    tape = Tape()
    step = tape.do("a", "timed out", ran=False)
    tape.undo("a")
    tape.applies_late(step, refused=refused)
    faults = (applies_late("a"),)
    assert kinds(tape.run("failed", report("COMPENSATED", ("a", "UNKNOWN", "DONE")), faults=faults)) == found


def test_a_repeat_after_the_undo_counts_once() -> None:
    tape = Tape()
    step = tape.do("a")
    tape.undo("a")
    tape.applies_late(step)
    faults = (delivered_late("a"),)
    assert kinds(tape.run("failed", report("COMPENSATED", ("a", "APPLIED", "DONE")), faults=faults)) == []


def test_a_failed_undo_is_reported() -> None:
    tape = Tape()
    tape.do("a"), tape.undo("a", "failed", ran=False)
    error = ApplicationError("incomplete", type="CompensationError")
    error.__cause__ = ApplicationError("boom")
    failed, faults = ("a", "APPLIED", "FAILED"), (fails_before("a:undo"),)
    incomplete = report("INCOMPLETE", failed)
    assert kinds(tape.run("failed", incomplete, error=error, faults=faults)) == []
    assert "not reported" in kinds(tape.run("failed", report("COMPENSATED", failed), faults=faults))
    assert "not reported" in kinds(tape.run("completed", report("COMPLETED", failed), faults=faults))
    assert kinds(tape.run("failed", incomplete, faults=faults)) == ["not reported"]  # its error does not say so
    assert kinds(tape.run("failed", faults=faults), Known(compensated={"a"})) == []  # by hand: the error of the undo
    assert kinds(tape.run("completed", incomplete, faults=faults)) == ["not reported"]  # nor does its good end
    tried_again = tape.run("completed", incomplete, faults=faults, run_ids=["run", "one more"])
    assert kinds(tried_again) == []  # the run that failed did


def test_an_undo_that_fails_by_itself() -> None:
    tape = Tape()
    tape.do("a"), tape.undo("a", "failed", ran=False)
    error = ApplicationError("incomplete", type="CompensationError")
    error.__cause__ = ApplicationError("boom")
    reports = report("INCOMPLETE", ("a", "APPLIED", "FAILED"))
    elsewhere = tape.run("failed", reports, error=error, faults=(fails_before("a:undo", nth=2),))
    assert kinds(elsewhere) == ["an undo fails by itself"]
    assert not undo_failed(elsewhere)
    struck = tape.run("failed", reports, error=error, faults=(fails_before("a:undo"),))
    assert kinds(struck) == []
    assert undo_failed(struck)


def test_what_a_child_could_not_undo_is_its_own_error() -> None:
    tape = Tape()
    tape.do("a"), tape.undo("a", "failed", ran=False)
    reports = report("INCOMPLETE", ("a", "APPLIED", "FAILED"))
    faults = (fails_before("a:undo"),)
    assert kinds(tape.run("cancelled", reports, run_ids=["the parent"], cancel_requested=True, faults=faults)) == []


def test_a_swallowed_step_is_undone_at_a_good_end_that_turns_bad() -> None:
    tape = Tape()
    tape.do("a", "failed"), tape.do("b"), tape.undo("a"), tape.undo("b")
    assert kinds(tape.run("failed", report("COMPENSATED", ("a", "UNKNOWN", "DONE"), B_DONE))) == []


def test_compensation_error_only_if_incomplete_and_with_its_cause() -> None:
    tape = Tape()
    tape.do("a"), tape.undo("a")
    error = ApplicationError("incomplete", type="CompensationError")
    assert kinds(tape.run("failed", report("COMPENSATED", A_DONE), error=error)) == ["untrue error"]
    failed = report("INCOMPLETE", ("a", "UNKNOWN", "FAILED"))
    assert kinds(tape.run("failed", failed, error=error)) == []  # after compensate() it has none
    tape.do("b", "failed", ran=False)
    assert kinds(tape.run("failed", failed, error=error)) == ["untrue error"]


def test_cancelled_only_after_a_cancel() -> None:
    assert kinds(Tape().run("cancelled")) == ["untrue error"]
    assert kinds(Tape().run("cancelled", cancel_requested=True)) == []


def test_a_run_that_waits_for_ever() -> None:
    assert kinds(Tape().run("waiting", waiting_for="a signal")) == ["hangs"]


def test_a_run_that_closes_under_its_saga() -> None:
    tape = Tape()
    tape.do("a")
    assert kinds(tape.run("cancelled", report("UNWINDING", ("a", "APPLIED", "PENDING")), cancel_requested=True)) == [
        "closed under a saga",
        "not undone",
    ]
    still_open = report("OPEN", ("a", "APPLIED", "PENDING"))
    assert kinds(tape.run("timed out", still_open)) == ["closed under a saga"]  # by its own run_timeout
    assert kinds(tape.run("terminated", still_open)) == []  # somebody wanted it


def test_what_the_pivot_kept_stands_rightly() -> None:
    tape = Tape()
    tape.do("a"), tape.do("b", "failed")
    reports = report("COMPENSATED", ("a", "APPLIED", None), ("b", "UNKNOWN", "DONE"))
    tape.undo("b")
    assert kinds(tape.run("failed", reports), Known(compensated={"a", "b"})) == []


def test_a_swallowed_failure_is_undone_though_the_saga_ends_well() -> None:
    tape = Tape()
    tape.do("a", "failed")
    faults = (fails_after("a"),)
    reports = report("COMPLETED", ("a", "UNKNOWN", None))
    assert kinds(tape.run("completed", reports, faults=faults), Known(compensated={"a"})) == ["not undone"]
    tape.undo("a")
    assert kinds(tape.run("completed", report("COMPLETED", ("a", "UNKNOWN", "DONE")), faults=faults)) == []


def test_a_bug_changes_nothing() -> None:
    tape = Tape()
    tape.do("a")
    known = Known(ends={(): ("completed", "'result'", ())})
    plan = (bug_after("a"),)
    assert kinds(tape.run("completed", faults=plan), known, plan) == []
    tape.undo("a")
    assert kinds(tape.run("failed", faults=plan), known, plan) == ["a bug unwinds"]
    (objection,) = check_run(tape.run("completed", faults=plan), plan, known)
    assert objection.message == (
        "the body caught a bug, so that the step was undone and the run went on: "
        "let it catch ActivityError (or FailureError) only; undone: a:undo#1"
    )


@pytest.mark.parametrize("late", ["", ", late"])
def test_a_key_is_used_for_one_thing(late: str) -> None:
    tape = Tape()
    tape.do("a")
    attempt = tape.calls[0].attempts[0]
    attempt.outcome = f"failed{late}: Rejected: KeyMisuse"
    assert kinds(tape.run("completed")) == []
    attempt.outcome = f"failed{late}: KeyMisuse: called before with another payload"
    assert kinds(tape.run("completed")) == ["key misused"]


def test_results_that_vary_are_not_compared() -> None:
    plan = (bug_after("a"),)
    ends: dict[Any, Any] = {(): ("completed", "another id", ())}
    run = Tape().run("completed", faults=plan)
    assert kinds(run, Known(ends=ends), plan) == ["a bug unwinds"]
    assert kinds(run, Known(ends=ends, results_vary=True), plan) == []


def test_replay() -> None:
    assert check_replay(SimpleNamespace(check_replay=lambda varying: None), Known()) == []  # type: ignore[arg-type]
    (objection,) = check_replay(SimpleNamespace(check_replay=lambda varying: "x"), Known())  # type: ignore[arg-type]
    assert objection.kind == "replay differs"
