"""The four hazards of the textbook idiom, against it (it must fall short) and against a saga."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus

from tests.textbook import TextbookLoop, TextbookShield

from .support import Run, Runs, eventually
from .workflows import Ours, Plan
from .world import Effect

Workflow = Callable[..., Awaitable[Any]]
LOOP, SHIELD, OURS = TextbookLoop.run, TextbookShield.run, Ours.run


@pytest.mark.parametrize(
    ("workflow", "stands"),
    [
        (LOOP, ["a", "b"]),  # it compensates nothing at all
        (SHIELD, []),  # here the textbook at its best is right
        (OURS, []),
    ],
    ids=["loop", "shield", "ours"],
)
async def test_hazard_1_cancelled_in_a_sleep(runs: Runs, workflow: Workflow, stands: list[str]) -> None:
    run = await runs.start(workflow, Plan([Effect("a"), Effect("b")], "sleep"), False)
    await run.event("TIMER_STARTED")
    await run.handle.cancel()
    await run.failure()
    assert await run.status() is WorkflowExecutionStatus.CANCELED
    assert run.book.stands == stands


@pytest.mark.parametrize(
    ("workflow", "stands"), [(LOOP, ["a"]), (SHIELD, ["a"]), (OURS, [])], ids=["loop", "shield", "ours"]
)
async def test_hazard_2_cancelled_while_compensations_run(runs: Runs, workflow: Workflow, stands: list[str]) -> None:
    run = await runs.start(workflow, Plan([Effect("a"), Effect("b", undo="stubborn")], "raise"), False)
    await run.reached("b:undo")
    await run.handle.cancel()
    await run.event("WORKFLOW_EXECUTION_CANCEL_REQUESTED")
    if workflow is OURS:
        run.open("b:undo")
        await run.failure()
    else:  # the run ends with the cancel; the undo that was running still comes to its end
        await run.failure()
        run.open("b:undo")
        await eventually(lambda: "b" not in run.book.stands)
    assert run.book.stands == stands
    assert ("a:undo" in run.book.began) == (workflow is OURS)


@pytest.mark.parametrize(
    ("workflow", "stands"), [(LOOP, []), (SHIELD, []), (OURS, ["a"])], ids=["loop", "shield", "ours"]
)
async def test_hazard_3_a_bug(runs: Runs, workflow: Workflow, stands: list[str]) -> None:
    run = await runs.start(workflow, Plan([Effect("a")], "bug"), False)
    assert await run.task_failure() == "a bug"
    # The task fails in each, and waits for a fixed deployment; the textbook has refunded by then.
    assert await run.status() is WorkflowExecutionStatus.RUNNING
    assert run.book.stands == stands


@pytest.mark.parametrize(
    ("workflow", "stands"), [(LOOP, ["late"]), (SHIELD, ["late"]), (OURS, [])], ids=["loop", "shield", "ours"]
)
async def test_hazard_4_a_parallel_step_that_succeeds_late(runs: Runs, workflow: Workflow, stands: list[str]) -> None:
    run = await runs.start(workflow, Plan([Effect("late", "deaf"), Effect("bad", "boom")]), True)
    if workflow is OURS:
        await run.event("ACTIVITY_TASK_CANCEL_REQUESTED")
        run.open("late:do")
        await run.failure()
    else:
        await run.failure()
        assert undone(run) == ["bad", "late"]
        run.open("late:do")
        await eventually(lambda: run.book.stands)
    assert run.book.stands == stands
    assert undone(run) == ["bad", "late"]


def undone(run: Run) -> list[str]:
    return [gate.removesuffix(":undo") for gate in run.book.began if gate.endswith(":undo")]
