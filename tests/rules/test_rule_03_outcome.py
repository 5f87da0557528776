"""Rule 3: what is proven never to have taken effect is not undone; all else is."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any
from uuid import UUID

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.testing import ActivityEnvironment

from temporal_saga import Compensation, Declined, Rejected, SagaState, StepOutcome
from tests.driver import (
    Event,
    Run,
    cancel,
    cancelled,
    child_already_started,
    child_completed,
    child_failed,
    child_started,
    completed,
    failed,
    reset,
    signal,
    timed_out,
)
from tests.rules.workflows import DECLINED, REFUSED, cancels, do, end, flow, new_saga, undone

MARK = {"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}
UNSURE = {"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "unknown"}}


@flow
async def two() -> None:
    async with new_saga() as saga:
        await do(saga, "a")
        await do(saga, "b")


def states(run: Run) -> list[tuple[str, str, str | None]]:
    """Of the first saga's steps, by the query."""
    return [(step["name"], step["state"], step["undo_state"]) for step in run.query("saga_report")[0]["steps"]]


@pytest.mark.parametrize(
    "event",
    [
        failed("b", DECLINED),
        failed("b", ApplicationError("x", "detail", MARK, type="Mine")),
        timed_out("b", TimeoutType.SCHEDULE_TO_START),
    ],
    ids=["mark", "mark after a detail", "never started"],
)
def test_rule_03_proven_not_applied(event: Event) -> None:
    run = Run(two).start()
    run.activate(completed("a"))
    run.activate(event)
    assert run.names == ["undo_a"]
    assert states(run) == [("a", "APPLIED", "RUNNING"), ("b", "NOT_APPLIED", None)]
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert isinstance(run.error, ActivityError)
    run.check()


@pytest.mark.parametrize(
    "event",
    [
        failed("b", REFUSED),
        failed("b", ApplicationError("x", type="Declined", non_retryable=True)),
        failed("b", ApplicationError("x", UNSURE, type="Declined")),
        failed("b", ApplicationError("x", MARK, "last", type="Declined")),
        failed("b", ApplicationError("x", {"temporal_saga": "none"}, type="Declined")),
        failed("b", ValueError("unmapped")),
        timed_out("b"),
        timed_out("b", TimeoutType.HEARTBEAT),
        timed_out("b", TimeoutType.SCHEDULE_TO_CLOSE),
        timed_out("b", TimeoutType.SCHEDULE_TO_START, cause=REFUSED),
        timed_out("b", TimeoutType.SCHEDULE_TO_START, cause=DECLINED),
        timed_out("b", cause=DECLINED),
        cancelled("b"),
        cancelled("b", started=False),
    ],
    ids=[
        "application error", "type alone", "later attempt", "mark not last", "another mark", "unmapped",
        "start-to-close", "heartbeat", "schedule-to-close", "start of a retry", "start of a retry, declined before",
        "timed out after declined", "cancelled", "cancelled in backoff",
    ],
)  # fmt: skip
def test_rule_03_unknown_is_undone(event: Event) -> None:
    run = Run(two).start()
    run.activate(completed("a"))
    run.activate(event)
    assert run.names == ["undo_b"]
    assert states(run) == [("a", "APPLIED", "PENDING"), ("b", "UNKNOWN", "RUNNING")]
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


NO_EFFECT = pytest.mark.parametrize(
    "event", [failed("b", DECLINED), timed_out("b", TimeoutType.SCHEDULE_TO_START)], ids=["mark", "never started"]
)


@NO_EFFECT
@pytest.mark.parametrize("reset_with", ["a", "b"])
def test_rule_03_behind_a_reset_nothing_proves_it(event: Event, reset_with: str) -> None:
    # What the run repeats, its life before the reset may have done.
    run = Run(two).start()
    run.activate(*[reset()] * (reset_with == "a"), completed("a"))
    run.activate(*[reset()] * (reset_with == "b"), event)
    assert states(run) == [("a", "APPLIED", "PENDING"), ("b", "UNKNOWN", "RUNNING")]
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


@NO_EFFECT
def test_rule_03_a_reset_to_the_start(event: Event) -> None:
    run = Run(two).start(reset())
    run.activate(completed("a"))
    run.activate(event)
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


def test_rule_03_behind_a_reset_a_step_that_never_left_the_worker_is_undone() -> None:
    run = Run(two).start(reset(), cancel())
    assert run.history == ["undo_a"]
    run.autopilot({})
    assert end(run) == "Cancelled"
    run.check()


@NO_EFFECT
def test_rule_03_what_was_proven_before_the_point_of_a_reset_stays_so(event: Event) -> None:
    run = Run(two, run_id=str(UUID(int=2)), original_execution_run_id=str(UUID(int=1))).start()
    run.activate(completed("a"))
    run.activate(event)
    assert run.names == ["undo_a"]
    run.activate(reset(str(UUID(int=2))), completed("undo_a"))
    assert states(run) == [("a", "APPLIED", "DONE"), ("b", "NOT_APPLIED", None)]
    run.check()


def test_rule_03_cancelled_before_it_left_the_worker() -> None:
    run = Run(two).start(cancel())
    assert run.history == []
    assert [command[0] for command in run.commands] == ["schedule_activity", "request_cancel_activity", "cancel"]
    assert states(run) == [("a", "NOT_APPLIED", None)]
    run.check()


def test_rule_03_drained_before_it_left_the_worker() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            late = asyncio.create_task(do(saga, "late"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not late.done()
            raise REFUSED

    run = Run(body).autopilot({})
    assert run.history == ["a", "undo_a"]
    assert cancels(run) == ["late"]
    run.check()


def test_rule_03_cancelled_after_it_left_the_worker_is_unknown() -> None:
    run = Run(two).start()
    run.activate(cancel())
    run.activate(cancelled("a", started=False))
    assert run.names == ["undo_a"]
    run.autopilot({})
    assert end(run) == "Cancelled"
    run.check()


def test_rule_03_a_later_step_in_the_same_task_as_a_completion_left_the_worker_before_the_cancel() -> None:
    # The history has grown between the command and the cancel, so the step may have run.
    run = Run(two).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(cancelled("b"))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


@pytest.mark.parametrize("error", [Declined, Rejected])
@pytest.mark.parametrize("attempt", [1, 2])
def test_rule_03_the_mark_is_proof_on_the_first_attempt_alone(
    error: type[Declined] | type[Rejected], attempt: int
) -> None:
    def refuse() -> None:
        raise error("no", {"code": 402})

    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(ActivityEnvironment.default_info(), attempt=attempt)
    with pytest.raises(error) as raised:
        environment.run(refuse)
    assert raised.value.non_retryable
    assert raised.value.type == error.__name__
    effect = "none" if attempt == 1 else "unknown"
    kind = error.__name__.upper()
    assert list(raised.value.details) == [{"code": 402}, {"temporal_saga": {"v": 1, "kind": kind, "effect": effect}}]

    run = Run(two).start()
    run.activate(completed("a"))
    run.activate(failed("b", raised.value))
    run.autopilot({})
    assert undone(run) == (["undo_a"] if attempt == 1 else ["undo_b", "undo_a"])
    run.check()


def test_rule_03_raised_in_a_workflow_the_mark_proves_nothing() -> None:
    assert Declined("no").details[-1]["temporal_saga"]["effect"] == "unknown"


@flow
async def with_child() -> None:
    async with new_saga() as saga:
        await do(saga, "a")
        await saga.execute_child_workflow("Child", 7, compensation=Compensation("undo_child", 7))


@pytest.mark.parametrize("error", [REFUSED, DECLINED])
def test_rule_03_a_childs_failure_is_unknown(error: ApplicationError) -> None:
    # The child may have done more than what its last activity declined.
    run = Run(with_child).start()
    run.activate(completed("a"))
    run.activate(child_started("Child"))
    run.activate(child_failed("Child", error))
    run.autopilot({})
    assert undone(run) == ["undo_child", "undo_a"]
    run.check()


def test_rule_03_a_child_that_exists_already_is_unknown() -> None:
    run = Run(with_child).start()
    run.activate(completed("a"))
    run.activate(child_already_started("Child"))
    run.autopilot({})
    assert undone(run) == ["undo_child", "undo_a"]
    assert "already started" in run.error.message
    run.check()


def chooser(asked: list[StepOutcome[Any, Any]], chosen: Any = None) -> Any:
    def choose(outcome: StepOutcome[Any, Any]) -> Any:
        asked.append(outcome)
        return chosen

    return choose


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (completed("b", "receipt"), [("APPLIED", "receipt")]),
        (failed("b", REFUSED), [("UNKNOWN", None)]),
        (timed_out("b"), [("UNKNOWN", None)]),
        (failed("b", DECLINED), []),
    ],
    ids=["applied", "unknown", "timed out", "not applied"],
)
def test_rule_03_compensation_from_is_called_once_when_the_outcome_is_known(
    event: Event, expected: list[tuple[str, Any]]
) -> None:
    asked: list[StepOutcome[Any, Any]] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            choose = chooser(asked, Compensation("undo_b", "chosen"))
            await do(saga, "b", compensation_from=choose)
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    assert asked == []
    (key,) = [activity.id.split(":")[2] for activity in run.activities]
    run.activate(event)
    assert [(outcome.state.value, outcome.result) for outcome in asked] == expected
    assert [(outcome.input, outcome.key) for outcome in asked] == [("b", key)] * len(expected)
    run.autopilot({})
    assert len(asked) == len(expected)
    assert undone(run) == ["undo_b"] * len(expected) + ["undo_a"]
    assert end(run) in ("Refused", "ActivityError")
    if expected:
        assert next(a for a in run.scheduled if a.name == "undo_b").args == ["chosen"]
    run.check()


@pytest.mark.parametrize(("args", "expected"), [([1, 2], [1, 2]), ([1], 1), ([], None)])
def test_rule_03_the_input_in_an_outcome(args: list[int], expected: Any) -> None:
    asked: list[StepOutcome[Any, Any]] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_activity("a", args=args, compensation_from=chooser(asked))
            raise REFUSED

    run = Run(body).autopilot({})
    assert [outcome.input for outcome in asked] == [expected]
    assert run.history == ["a"]
    run.check()


def test_rule_03_a_compensation_from_with_a_bug_fails_the_task_and_the_fixed_code_carries_on() -> None:
    def code(bug: bool) -> type[Any]:
        def choose(outcome: StepOutcome[Any, dict[str, int]]) -> Compensation:
            assert outcome.result is not None
            return Compensation("undo_a", outcome.result["wrong" if bug else "id"])

        @flow
        async def body() -> None:
            async with new_saga() as saga:
                await do(saga, "a", compensation_from=choose)
                raise REFUSED

        return body

    run = Run(code(bug=True)).start()
    run.activate(completed("a", {"id": 3}))
    assert end(run) == "task: RuntimeError"
    run.restart(code(bug=False)).autopilot({})
    assert [activity.args for activity in run.scheduled] == [["a"], [3]]
    assert end(run) == "Refused"
    run.check()


def test_rule_03_a_step_whose_options_are_wrong_arms_nothing() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                await do(saga, "b", start_to_close_timeout=None)
            except ValueError:
                raise REFUSED from None
            return "not reached"

    run = Run(body).autopilot({})
    assert run.history == ["a", "undo_a"]
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "result"])
def test_rule_03_a_result_that_came_with_the_cancel_is_kept(first: str, single_batch: bool) -> None:
    asked: list[StepOutcome[Any, Any]] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            choose = chooser(asked, Compensation("undo_a", "known"))
            await do(saga, "a", compensation_from=choose)
            await do(saga, "never")

    run = Run(body, single_batch=single_batch).start()
    events = [cancel(), completed("a", "receipt")]
    run.activate(*(events if first == "cancel" else reversed(events)))
    assert [(outcome.state.value, outcome.result) for outcome in asked] == [("APPLIED", "receipt")]
    assert cancels(run) in ([], ["never"])
    assert "never" not in run.history
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "Cancelled"
    run.check()


@pytest.mark.parametrize("single_batch", [False, True])
@pytest.mark.parametrize("first", ["cancel", "failure"])
def test_rule_03_a_proof_that_came_with_the_cancel_is_kept(first: str, single_batch: bool) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b")

    run = Run(body, single_batch=single_batch).start()
    run.activate(completed("a"))
    events = [cancel(), failed("b", DECLINED)]
    run.activate(*(events if first == "cancel" else reversed(events)))
    assert cancels(run) == []
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    run.check()


def test_rule_03_a_child_that_returns_its_state_gives_its_entries_to_the_parent() -> None:
    @flow
    async def child() -> Any:
        async with new_saga("child") as saga:
            await do(saga, "x")
            await do(saga, "y")
            return saga.detach()

    in_child = Run(child).autopilot({})
    assert in_child.history == ["x", "y"]

    def choose(outcome: StepOutcome[Any, SagaState]) -> SagaState | None:
        return outcome.result

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await saga.execute_child_workflow("Child", result_type=SagaState, compensation_from=choose)
            await do(saga, "b")
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(child_started("Child"))
    run.activate(child_completed("Child", in_child.result))
    run.autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_y", "undo_x", "undo_a"]
    by_child = {activity.name: activity.id.split(":")[2] for activity in in_child.scheduled}
    assert [activity.id.split(":")[2] for activity in run.scheduled[3:5]] == [by_child["y"], by_child["x"]]
    run.check()


def test_rule_03_a_step_that_the_body_cancels_is_unknown() -> None:
    @flow
    async def body() -> None:
        stop: list[int] = []
        workflow.set_signal_handler("stop", stop.append)
        async with new_saga() as saga:
            task = asyncio.create_task(do(saga, "a"))
            await workflow.wait_condition(lambda: bool(stop))
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                raise REFUSED from None

    run = Run(body).start()
    run.activate(signal("stop", 1))
    run.activate(cancelled("a"))
    run.autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "Refused"
    run.check()
