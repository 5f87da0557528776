"""Rule 9: a history replays at every point, sandboxed; and the order of commands is public."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, cancelled, completed, failed
from tests.rules.everything import Everything
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone

ANCHOR = "11111111-2222-4333-8444-555555555555"


def everything(**options: Any) -> Run:
    run = Run(Everything, run_id=ANCHOR, **options)
    return run.autopilot({"card1:do": REFUSED, "ship:do": REFUSED})


@pytest.mark.parametrize("plugins", [[], [SagaPlugin()]], ids=["alone", "plugin"])
def test_rule_09_replays_in_the_sandbox(plugins: list[Any]) -> None:
    run = everything(plugins=plugins)
    run.replay(runner=SandboxedWorkflowRunner())
    run.check()


def test_rule_09_runs_in_the_sandbox() -> None:
    sandboxed = everything(runner=SandboxedWorkflowRunner(), plugins=[SagaPlugin()])
    assert end(sandboxed) == "ActivityError"
    plain = everything()
    ours = [command for command in sandboxed.commands if command[0] != "fail"]
    assert ours == [command for command in plain.commands if command[0] != "fail"]
    plain.check()


def test_rule_09_the_order_of_commands_is_public() -> None:
    run = everything()
    commands = [
        (command[0], command[1].rsplit(":", 1)[0] if isinstance(command[1], str) else command[1])
        for command in run.commands[:-1]
    ]
    assert commands == [
        ("start_timer", 60.0),
        ("schedule_activity", "reserve:do"),
        ("schedule_activity", "pick:do"),
        ("schedule_activity", "pick:do"),
        ("schedule_activity", "pick:do"),
        ("schedule_activity", "card1:do"),
        ("start_child", "Card2:do"),
        ("schedule_activity", "ship:do"),
        ("cancel_timer", 60.0),
        ("schedule_activity", "ship:undo"),
        ("start_child", "Card2:undo"),
        ("schedule_activity", "card1:undo"),
        ("schedule_activity", "pick:undo"),
        ("schedule_activity", "pick:undo"),
        ("schedule_activity", "pick:undo"),
        ("start_timer", 1.0),
        ("schedule_activity", "undo_by_hand:push"),
        ("schedule_activity", "reserve:undo"),
    ]
    run.check()


def test_rule_09_two_runs_of_one_history_have_the_same_ids() -> None:
    first, second = everything(), everything()
    assert [activity.id for activity in first.scheduled] == [activity.id for activity in second.scheduled]


@pytest.mark.parametrize("order", ["reverse", "concurrent"])
@pytest.mark.parametrize("how", ["fail", "cancel"])
def test_rule_09_many_in_flight_at_the_same_time(order: Any, how: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga(order=order) as saga:
            await do(saga, "a")
            await asyncio.gather(*[do(saga, f"s{number}") for number in range(40)])

    run = Run(body).start()
    run.activate(completed("a"))
    names = list(run.names)
    assert names == [f"s{number}" for number in range(40)]
    run.activate(failed("s0", REFUSED) if how == "fail" else cancel())
    # Cancelled in the order of their start, when the drain asks; a gather cancels in its own order.
    requested = [c[1].split(":")[0] for c in run.commands if c[0] == "request_cancel_activity"]
    assert requested == (names[1:] if how == "fail" else names)
    for activity in list(run.activities):
        run.activate(cancelled(activity.id))
    run.autopilot({})
    expected = [f"undo_s{number}" for number in range(39, -1, -1)] + ["undo_a"]
    assert undone(run) == expected
    run.check()


def test_rule_09_a_run_moves_between_workers_at_every_point() -> None:
    whole = everything()
    for count in range(1, len(whole.activations)):
        run = Run(Everything, run_id=ANCHOR).start()
        behaviours = {"card1:do": REFUSED, "ship:do": REFUSED}
        for _ in range(count - 1):
            run.activate(run._next(behaviours))
        run.restart()
        run.autopilot(behaviours)
        assert run.commands[:-1] == whole.commands[:-1]
