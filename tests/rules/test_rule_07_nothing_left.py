"""Rule 7: a failure that the body swallowed is undone, at the latest when its scope ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import SagaState
from tests.driver import Run, cancel, completed, failed
from tests.rules.test_rule_04_errors import Batches
from tests.rules.workflows import DECLINED, REFUSED, do, end, flow, new_saga, undone


def cards(then: str = "end well", pivot: str = "") -> type[Any]:
    """Return a workflow that tries card 1 and pays with card 2."""

    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "order")
            try:
                await do(saga, "card1")
            except ActivityError:
                await do(saga, "card2")
            if pivot:
                saga.pivot()
            if then == "fail":
                raise REFUSED
            return "paid"

    return body


def test_rule_07_card_1_is_undone_when_card_2_was_charged() -> None:
    run = Run(cards()).autopilot({"card1:do": REFUSED})
    assert run.history == ["order", "card1", "card2", "undo_card1"]
    assert end(run) == "paid"
    (report,) = run.query("saga_report")
    assert report["state"] == "COMPLETED"
    assert [(s["name"], s["state"], s["undo_state"]) for s in report["steps"]] == [
        ("order", "APPLIED", None),
        ("card1", "UNKNOWN", "DONE"),
        ("card2", "APPLIED", None),
    ]
    run.check()


def test_rule_07_a_card_that_was_declined_needs_no_undo() -> None:
    run = Run(cards()).autopilot({"card1:do": DECLINED})
    assert run.history == ["order", "card1", "card2"]
    assert end(run) == "paid"
    run.check()


def test_rule_07_a_bad_end_undoes_it_in_its_place() -> None:
    run = Run(cards(then="fail")).autopilot({"card1:do": REFUSED})
    assert undone(run) == ["undo_card2", "undo_card1", "undo_order"]
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("then", ["end well", "fail"])
def test_rule_07_a_pivot_notwithstanding(then: str) -> None:
    run = Run(cards(then=then, pivot="pivot")).autopilot({"card1:do": REFUSED})
    assert run.history == ["order", "card1", "card2", "undo_card1"]
    assert end(run) == {"end well": "paid", "fail": "Refused"}[then]
    run.check()


@pytest.mark.parametrize("pivot", ["", "pivot"])
def test_rule_07_an_undo_that_fails_for_good(pivot: str) -> None:
    run = Run(cards(pivot=pivot)).autopilot({"card1:do": REFUSED, "undo_card1": REFUSED})
    assert end(run) == "CompensationError"
    assert isinstance(run.error.cause, ActivityError)
    assert run.error.cause.activity_type == "card1"
    assert "undo_card1" in undone(run)
    run.check()


def test_rule_07_the_cause_is_the_swallowed_step_whose_undo_failed() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for name in "abc":
                try:
                    await do(saga, name)
                except ActivityError:
                    continue

    run = Run(body).autopilot({"a:do": REFUSED, "b:do": REFUSED, "c:do": REFUSED, "undo_b": REFUSED})
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert run.error.cause.activity_type == "b"
    run.check()


def test_rule_07_a_cancel_while_a_good_end_is_undoing() -> None:
    @flow
    async def body() -> str:
        try:
            async with new_saga() as saga:
                try:
                    await do(saga, "card1")
                except ActivityError:
                    await do(saga, "card2")
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            return "cancelled at the end"
        return "paid"

    run = Run(body).start()
    run.activate(failed("card1", REFUSED))
    run.activate(completed("card2"))
    assert run.names == ["undo_card1"]
    run.activate(cancel())
    run.activate(completed("undo_card1"))
    run.autopilot({})
    # The scope has ended badly after all: what it did is undone.
    assert undone(run) == ["undo_card1", "undo_card2"]
    assert run.result == "cancelled at the end"
    run.check()


def test_rule_07_in_a_savepoint_at_the_savepoints_end() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            async with saga.savepoint() as attempt:
                try:
                    await do(attempt, "card1")
                except ActivityError:
                    await do(attempt, "card2")
            await do(saga, "ship")

    run = Run(body).autopilot({"card1:do": REFUSED})
    assert run.history == ["card1", "card2", "undo_card1", "ship"]
    run.check()


def test_rule_07_gather_with_return_exceptions_swallows() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            results = await asyncio.gather(do(saga, "a"), do(saga, "b"), return_exceptions=True)
            return str([type(result).__name__ for result in results])

    run = Run(body).autopilot({"a:do": REFUSED})
    assert undone(run) == ["undo_a"]
    run.check()


def test_rule_07_a_cancelled_step_that_completed_is_undone_when_the_cancel_is_swallowed() -> None:
    # It raised CancelledError, so the body believes that it did not happen.
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            try:
                await do(saga, "a")
            except asyncio.CancelledError:
                await do(saga, "b")
            return "swallowed"

    run = Run(body).start()
    run.activate(cancel())
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert run.history == ["a", "b", "undo_a"]
    assert run.result == "swallowed"
    run.check()


def test_rule_07_a_child_whose_failure_was_swallowed() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            try:
                await saga.execute_child_workflow("Child", compensation="undo_child")
            except Exception as error:
                return type(error).__name__
        return ""

    run = Run(body).autopilot({"Child:do": REFUSED})
    assert undone(run) == ["undo_child"]
    assert run.result == "ChildWorkflowError"
    run.check()


@workflow.defn
class EndsWell:
    @workflow.run
    async def run(self, state: SagaState) -> str:
        async with new_saga(state=state):
            return "ended well"


def test_rule_07_a_swallowed_failure_travels_with_detach() -> None:
    @flow
    async def body() -> Any:
        async with new_saga() as saga:
            await do(saga, "order")
            try:
                await do(saga, "card1")
            except ActivityError:
                await do(saga, "card2")
            return saga.detach()

    first = Run(body).autopilot({"card1:do": REFUSED})
    assert first.history == ["order", "card1", "card2"]
    first.check()

    # The next run ends well: card 1 is undone, and what succeeded is kept.
    second = Run(EndsWell, first.result).autopilot({})
    assert second.history == ["undo_card1"]
    assert second.result == "ended well"
    second.check()
    third = Run(Batches, 4, first.result).autopilot({})
    assert undone(third) == ["undo_b", "undo_a", "undo_card2", "undo_card1", "undo_order"]
    third.check()


def test_rule_07_one_that_the_body_undid_itself_by_compensate() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            try:
                await do(saga, "a")
            except ActivityError:
                report = await saga.compensate()
                return report.state
        return ""

    run = Run(body).autopilot({"a:do": REFUSED})
    assert run.history == ["a", "undo_a"]
    assert run.result == "COMPENSATED"
    run.check()


def test_rule_07_the_error_of_a_savepoint_that_unwound_is_no_swallowed_step() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            for carrier in ("ups", "dhl"):
                try:
                    async with saga.savepoint() as attempt:
                        await do(attempt, f"book_{carrier}")
                        await do(attempt, f"label_{carrier}")
                except (ActivityError, ApplicationError):
                    continue
                return carrier
        return ""

    run = Run(body).autopilot({"label_ups:do": DECLINED})
    assert run.history == ["book_ups", "label_ups", "undo_book_ups", "book_dhl", "label_dhl"]
    assert run.result == "dhl"
    run.check()
