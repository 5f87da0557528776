"""Rule 10: nothing but ids and cancellation types differs from the same workflow by hand, when nothing fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.bridge.proto.workflow_commands import WorkflowCommand

from temporal_saga import presets
from tests.driver import Run
from tests.rules.workflows import OPTIONS, SECOND, do, flow, new_saga

NAMES = ["a", "b", "c", "d", "e"]


@flow
async def by_hand() -> str:
    for name in NAMES:
        await workflow.execute_activity(name, name, **OPTIONS)
    return "done"


@flow
async def with_saga() -> str:
    async with new_saga() as saga:
        for name in NAMES:
            await do(saga, name)
        return "done"


@flow
async def by_hand_in_parallel() -> str:
    await asyncio.gather(*[workflow.execute_activity(name, name, **OPTIONS) for name in NAMES])
    return "done"


@flow
async def with_saga_in_parallel() -> str:
    async with new_saga() as saga:
        await asyncio.gather(*[do(saga, name) for name in NAMES])
        return "done"


@flow
async def with_everything() -> str:
    async with new_saga() as saga:
        saga.add_compensation("undo_by_hand")
        saga.add_callback(asyncio.sleep, 1)
        async with saga.savepoint() as attempt:
            await do(attempt, "a")
            await do(attempt, "b", compensation_from=lambda outcome: None)
        await do(saga, "c", compensation=None)
        saga.pivot()
        await do(saga, "d")
        saga.report()
        saga.idempotency_key("x")
        await do(saga, "e", key="x", step="another")
        return "done"


def without_ids(run: Run) -> list[list[WorkflowCommand]]:
    """Return the commands of each activation without what rule 10 lets differ."""
    result = []
    for activation in run.activations:
        commands = []
        for command in activation.protos:
            copy = WorkflowCommand()
            copy.CopyFrom(command)
            if copy.HasField("schedule_activity"):
                copy.schedule_activity.ClearField("activity_id")
                copy.schedule_activity.ClearField("cancellation_type")
            if copy.HasField("start_child_workflow_execution"):
                for name in ("workflow_id", "cancellation_type", "parent_close_policy"):
                    copy.start_child_workflow_execution.ClearField(name)
            commands.append(copy)
        result.append(commands)
    return result


@pytest.mark.parametrize(
    ("hand", "ours"),
    [(by_hand, with_saga), (by_hand_in_parallel, with_saga_in_parallel), (by_hand, with_everything)],
    ids=["sequential", "parallel", "every part"],
)
def test_rule_10_the_same_commands(hand: type[Any], ours: type[Any]) -> None:
    run, expected = Run(ours).autopilot({}), Run(hand).autopilot({})
    assert without_ids(run) == without_ids(expected)
    run.check()


def test_rule_10_a_deadline_costs_its_timer() -> None:
    @flow
    async def body() -> str:
        async with new_saga(deadline=60 * SECOND) as saga:
            for name in NAMES:
                await do(saga, name)
            return "done"

    run = Run(body).autopilot({})
    assert [command[0] for command in run.commands] == [
        "start_timer",
        *["schedule_activity"] * 5,
        "cancel_timer",
        "complete",
    ]
    run.check()


def test_rule_10_children_differ_in_id_and_policies() -> None:
    @flow
    async def hand() -> None:
        await workflow.execute_child_workflow("Child", 1, id="mine")

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await saga.execute_child_workflow("Child", 1, compensation="undo_child")

    run, expected = Run(body).autopilot({}), Run(hand).autopilot({})
    assert without_ids(run) == without_ids(expected)
    run.check()


def test_rule_10_presets_are_what_one_would_write() -> None:
    @flow
    async def body() -> None:
        async with new_saga(activity_options=presets.standard()) as saga:
            await do(saga, "a")

    @flow
    async def hand() -> None:
        await workflow.execute_activity("a", "a", **presets.standard())

    assert without_ids(Run(body).autopilot({})) == without_ids(Run(hand).autopilot({}))


def test_rule_10_a_good_end_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "temporalio.workflow")
    run = Run(with_everything).autopilot({})
    assert run.result == "done"
    assert caplog.records == []
    run.check()
