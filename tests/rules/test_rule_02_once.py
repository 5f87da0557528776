"""Rule 2: each armed compensation is scheduled once, and runs to success or is reported failed."""

# ruff: noqa: PT017 (in workflow code, where `pytest.raises` would take an eviction for what it expects)

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutType

from temporal_saga import Compensation, CompensationError, Saga
from tests.driver import Event, Run, cancel, cancelled, completed, failed, timed_out
from tests.rules.workflows import OPTIONS, REFUSED, do, end, flow, new_saga, undone


@flow
async def three() -> None:
    async with new_saga() as saga:
        for name in "abc":
            await do(saga, name)
        raise REFUSED


def undo_states(report: Any) -> list[tuple[str, str, str | None]]:
    """Of a report as a client gets it."""
    return [(step["name"], step["state"], step["undo_state"]) for step in report["steps"]]


@pytest.mark.parametrize(
    "event",
    [
        failed("undo_b", REFUSED),
        timed_out("undo_b"),
        timed_out("undo_b", TimeoutType.SCHEDULE_TO_START),
        cancelled("undo_b"),
    ],
    ids=["raises", "times out", "never starts", "is cancelled by an operator"],
)
def test_rule_02_one_that_fails_is_reported_and_the_others_run(event: Event) -> None:
    run = Run(three).start()
    for name in ("a", "b", "c", "undo_c"):
        run.activate(completed(name))
    run.activate(event)
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert end(run) == "CompensationError"
    (report,) = run.error.details
    assert report["state"] == "INCOMPLETE"
    assert undo_states(report) == [("a", "APPLIED", "DONE"), ("b", "APPLIED", "FAILED"), ("c", "APPLIED", "DONE")]
    run.check()


def test_rule_02_all_of_them_fail() -> None:
    run = Run(three).autopilot({"undo_a": REFUSED, "undo_b": CancelledError(), "undo_c": REFUSED})
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert {state for _, _, state in undo_states(run.error.details[0])} == {"FAILED"}
    run.check()


def test_rule_02_a_child_compensation_that_an_operator_cancels_has_failed() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b", compensation=Compensation.child_workflow("UndoB", "b"))
            raise REFUSED

    run = Run(body).autopilot({"UndoB": CancelledError()})
    assert undone(run) == ["undo_a"]
    assert end(run) == "CompensationError"
    run.check()


@pytest.mark.parametrize("kind", ["raises", "awaits what was cancelled"])
def test_rule_02_a_callback_that_fails(kind: str) -> None:
    async def callback() -> None:
        if kind == "raises":
            raise ApplicationError("no")
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        await task

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(callback)
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_a"]
    assert end(run) == "CompensationError"
    assert undo_states(run.error.details[0]) == [("a", "APPLIED", "DONE"), ("callback", "APPLIED", "FAILED")]
    run.check()


def test_rule_02_a_callback_with_a_bug_waits_for_the_fixed_code() -> None:
    def code(bug: bool) -> type[Any]:
        async def callback() -> None:
            await workflow.execute_activity("undo_by_hand", **OPTIONS)
            if bug:
                raise TypeError("a bug")

        @flow
        async def body() -> None:
            async with new_saga() as saga:
                await do(saga, "a")
                saga.add_callback(callback)
                raise REFUSED

        return body

    run = Run(code(bug=True)).autopilot({})
    assert end(run) == "task: TypeError"
    run.restart(code(bug=False)).autopilot({})
    assert run.history == ["a", "undo_by_hand", "undo_a"]
    assert end(run) == "Refused"
    run.check()


def test_rule_02_a_savepoint_is_not_unwound_again_with_the_whole() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                    raise REFUSED
            except ApplicationError:
                await do(saga, "c")
            raise REFUSED

    run = Run(body).autopilot({})
    assert run.history == ["a", "b", "undo_b", "c", "undo_c", "undo_a"]
    run.check()


def test_rule_02_a_failed_undo_of_a_savepoint_is_reported_again_at_the_end() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
            try:
                async with saga.savepoint() as attempt:
                    await do(attempt, "b")
                    raise REFUSED
            except CompensationError as error:
                assert error.__cause__ is REFUSED
            raise ApplicationError("later", type="Later")

    run = Run(body).autopilot({"undo_b": REFUSED})
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "CompensationError"
    assert run.error.cause.type == "Later"
    run.check()


def test_rule_02_compensate_unwinds_once() -> None:
    @flow
    async def body() -> Any:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b")
            report = await saga.compensate()
            assert saga.report() == report
            return report

    run = Run(body).autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    assert run.result["state"] == "COMPENSATED"
    run.check()


@pytest.mark.parametrize("then", ["cancel", "fail"])
def test_rule_02_the_exit_after_compensate_does_nothing(then: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await saga.compensate()
            if then == "fail":
                raise REFUSED
            await asyncio.sleep(60)

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("undo_a"))
    if then == "cancel":
        run.activate(cancel())
    assert run.history == ["a", "undo_a"]
    assert end(run) == {"cancel": "Cancelled", "fail": "Refused"}[then]
    run.check()


def test_rule_02_compensate_raises_what_was_incomplete() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await saga.compensate()

    run = Run(body).autopilot({"undo_a": REFUSED})
    assert end(run) == "CompensationError"
    run.check()


def test_rule_02_compensate_raises_the_cancel_that_came_meanwhile() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b")
            await saga.compensate()
            await do(saga, "never")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(cancel())
    run.autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_02_steps_of_one_name_are_undone_each_once() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for number in range(3):
                await saga.execute_activity("a", number, compensation="undo_a")
            raise REFUSED

    run = Run(body).autopilot({})
    assert [activity.args for activity in run.scheduled] == [[0], [1], [2], [2], [1], [0]]
    assert len({activity.id for activity in run.scheduled}) == 6
    run.check()


def test_rule_02_what_failed_for_good_has_its_step_as_cause_where_known() -> None:
    run = Run(three).autopilot({"undo_c": REFUSED})
    assert isinstance(run.error.cause, ApplicationError)
    assert run.error.cause.type == "Refused"
    assert not isinstance(run.error.cause, ActivityError)
    run.check()


def test_rule_02_entered_twice_is_misuse() -> None:
    saved: list[Saga] = []

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saved.append(saga)
        async with saga:
            pass

    run = Run(body).start()
    assert end(run) == "task: RuntimeError"
    assert "once" in run.commands[-1][2]
