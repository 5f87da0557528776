"""Rule 12: what closes a run past the scope waits for its sagas, with the plugin."""

# ruff: noqa: F821 (groups are of Python 3.11 and later, as are the tests of them)

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga.plugin import SagaPlugin
from tests.driver import Run, cancel, cancelled, completed, failed, signal, timer, update
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")

PLUGIN: dict[str, Any] = {"plugins": [SagaPlugin()]}


@flow
async def failing_signal() -> None:
    async def bad() -> None:
        raise ApplicationError("from the handler", type="FromTheHandler")

    workflow.set_signal_handler("bad", bad)
    async with new_saga() as saga:
        await do(saga, "a")
        await do(saga, "b")
        await workflow.execute_activity("plain", **OPTIONS)
        await asyncio.sleep(60)


def test_rule_12_a_failing_signal_handler_without_the_plugin_closes_the_run() -> None:
    run = Run(failing_signal).start()
    run.activate(completed("a"))
    run.activate(signal("bad"))
    assert undone(run) == []
    assert end(run) == "FromTheHandler"


@pytest.mark.parametrize("where", ["in a step", "in a plain activity", "in a sleep"])
def test_rule_12_a_failing_signal_handler(where: str) -> None:
    run = Run(failing_signal, **PLUGIN).start()
    run.activate(completed("a"))
    if where != "in a step":
        run.activate(completed("b"))
    if where == "in a sleep":
        run.activate(completed("plain"))
    run.activate(signal("bad"))
    if where == "in a step":
        assert cancels(run) == ["b"]
        run.activate(completed("b"))
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_b", "undo_a"]
    assert end(run) == "FromTheHandler"
    run.check()


def test_rule_12_a_failing_signal_handler_during_the_unwind() -> None:
    run = Run(failing_signal, **PLUGIN).start()
    run.activate(completed("a"))
    run.activate(failed("b", DECLINED))
    run.activate(signal("bad"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_a"]
    assert run.closed is not None
    assert run.closed[0] == "fail"
    run.check()


def test_rule_12_a_failing_signal_handler_whose_saga_is_its_own() -> None:
    @flow
    async def body() -> None:
        async def bad() -> None:
            async with new_saga("handler") as saga:
                await do(saga, "x")
                raise ApplicationError("from the handler", type="FromTheHandler")

        workflow.set_signal_handler("bad", bad)
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.sleep(60)

    run = Run(body, **PLUGIN).start()
    run.activate(completed("a"))
    run.activate(signal("bad"))
    run.activate(completed("x"))
    assert run.names == ["undo_x"]
    run.activate(completed("undo_x"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert undone(run) == ["undo_x", "undo_a"]
    assert end(run) == "FromTheHandler"
    run.check()


def test_rule_12_a_signal_handler_with_a_bug_fails_the_task() -> None:
    @flow
    async def body() -> None:
        async def bad() -> None:
            raise TypeError("a bug")

        workflow.set_signal_handler("bad", bad)
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.sleep(60)

    run = Run(body, **PLUGIN).start()
    run.activate(completed("a"))
    run.activate(signal("bad"))
    assert end(run) == "task: TypeError"
    assert run.history == ["a"]
    run.check()


def in_a_handler(ends: str = "returns") -> type[Any]:
    """Return a workflow whose update `work` and signal `note` have sagas of their own."""

    @flow
    async def body() -> str:
        async def work() -> str:
            async with new_saga("handler") as saga:
                await do(saga, "x")
                await do(saga, "y")
                return "worked"

        async def note() -> None:
            await work()

        workflow.set_update_handler("work", work)
        workflow.set_signal_handler("note", note)
        await workflow.execute_activity("main", **OPTIONS)
        if ends == "fails":
            raise REFUSED
        return "main is done"

    return body


@pytest.mark.parametrize("what", ["update", "signal"])
def test_rule_12_a_saga_in_a_handler_warns_without_the_plugin(what: str, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(in_a_handler()).start()
    run.activate(update("work") if what == "update" else signal("note"))
    records = [record for record in caplog.records if record.name == "temporalio.workflow"]
    assert [record.levelno for record in records] == [logging.WARNING]
    assert "SagaPlugin" in records[0].getMessage()
    run.activate(completed("x"))
    run.activate(completed("y"))
    run.activate(completed("main"))
    assert run.result == "main is done"
    run.check()


@pytest.mark.parametrize("what", ["update", "signal"])
def test_rule_12_a_saga_in_a_handler_does_not_warn_with_the_plugin(what: str, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(in_a_handler(), **PLUGIN).start()
    run.activate(update("work") if what == "update" else signal("note"))
    run.activate(completed("x"))
    run.activate(completed("y"))
    run.activate(completed("main"))
    assert run.result == "main is done"
    assert [record for record in caplog.records if record.name == "temporalio.workflow"] == []
    run.check()


def test_rule_12_a_saga_in_the_main_method_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    Run(failing_signal).start()
    assert [record for record in caplog.records if record.name == "temporalio.workflow"] == []


@pytest.mark.filterwarnings("ignore:.*TMPRL1102")  # that is the point
def test_rule_12_a_saga_in_a_handler_without_the_plugin_is_lost() -> None:
    # What the warning is for.
    run = Run(in_a_handler()).start()
    run.activate(update("work"))
    run.activate(completed("x"))
    run.activate(completed("main"))
    assert run.result == "main is done"
    assert undone(run) == []


@pytest.mark.filterwarnings("ignore:.*TMPRL1102")  # so that an assertion tells of it
@pytest.mark.parametrize("what", ["update", "signal"])
@pytest.mark.parametrize("main", ["returns", "fails"])
def test_rule_12_the_main_method_ends_under_a_saga_of_a_handler(what: str, main: str) -> None:
    run = Run(in_a_handler(main), **PLUGIN).start()
    run.activate(update("work") if what == "update" else signal("note"))
    run.activate(completed("x"))
    run.activate(completed("main"))
    assert run.closed is None
    assert cancels(run) == ["y"]
    run.activate(cancelled("y"))
    assert run.names == ["undo_y"]
    run.activate(completed("undo_y"))
    run.activate(completed("undo_x"))
    assert undone(run) == ["undo_y", "undo_x"]
    assert end(run) == {"returns": "main is done", "fails": "Refused"}[main]
    if what == "update":
        kinds = [command[0] for command in run.commands]
        assert "update_rejected" in kinds
        assert "update_completed" not in kinds
    run.check()


@pytest.mark.parametrize("what", ["update", "signal"])
def test_rule_12_the_workflow_is_cancelled_under_a_saga_of_a_handler(what: str) -> None:
    run = Run(in_a_handler(), **PLUGIN).start()
    run.activate(update("work") if what == "update" else signal("note"))
    run.activate(completed("x"))
    run.activate(cancel())
    if "main" in run.names:
        run.activate(cancelled("main"))
    assert run.closed is None
    run.activate(completed("y"))
    assert run.names == ["undo_y"]
    assert run.activate(cancel()) == []
    run.activate(completed("undo_y"))
    run.activate(completed("undo_x"))
    assert undone(run) == ["undo_y", "undo_x"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_12_a_signal_handlers_undo_that_fails_after_a_cancel_fails_the_run() -> None:
    # Cancelled would say that all has been undone.
    run = Run(in_a_handler(), **PLUGIN).start()
    run.activate(signal("note"))
    run.activate(completed("x"))
    run.activate(cancel())
    if "main" in run.names:
        run.activate(cancelled("main"))
    run.activate(completed("y"))
    run.activate(failed("undo_y", REFUSED))
    run.activate(completed("undo_x"))
    assert undone(run) == ["undo_y", "undo_x"]
    assert end(run) == "CompensationError"
    run.check()


def test_rule_12_a_saga_in_a_background_task() -> None:
    @flow
    async def body() -> str:
        async def background() -> None:
            async with new_saga("background") as saga:
                await do(saga, "x")
                await asyncio.sleep(60)

        task = asyncio.create_task(background())
        task.add_done_callback(lambda done: done.cancelled())
        await workflow.execute_activity("main", **OPTIONS)
        return "main is done"

    run = Run(body, **PLUGIN).start()
    run.activate(completed("x"))
    run.activate(completed("main"))
    assert run.names == ["undo_x"]
    run.activate(completed("undo_x"))
    assert run.result == "main is done"
    run.check()


def test_rule_12_an_unwind_that_runs_already_is_awaited_and_not_cancelled() -> None:
    @flow
    async def body() -> str:
        async def work() -> None:
            async with new_saga("handler") as saga:
                await do(saga, "x")
                raise REFUSED

        workflow.set_update_handler("work", work)
        await workflow.execute_activity("main", **OPTIONS)
        return "main is done"

    run = Run(body, **PLUGIN).start()
    run.activate(update("work"))
    run.activate(completed("x"))
    assert run.names == ["main", "undo_x"]
    run.activate(completed("main"))
    assert run.closed is None
    run.activate(completed("undo_x"))
    rejected = next(command for command in run.commands if command[0] == "update_rejected")
    assert rejected[2].type == "Refused"
    assert run.result == "main is done"
    run.check()


def test_rule_12_nothing_changes_for_a_run_without_open_sagas() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            await do(saga, "a")
        return "done"

    with_plugin, alone = Run(body, **PLUGIN).autopilot({}), Run(body).autopilot({})
    kinds = [[command[0] for command in done.commands] for done in with_plugin.activations]
    assert kinds == [[command[0] for command in done.commands] for done in alone.activations]
    assert with_plugin.result == "done"
    with_plugin.check()


def test_rule_12_continue_as_new_waits_too() -> None:
    @flow
    async def body() -> None:
        async def work() -> None:
            async with new_saga("handler") as saga:
                await do(saga, "x")
                await asyncio.sleep(60)

        workflow.set_signal_handler("note", work)
        await workflow.execute_activity("main", **OPTIONS)
        workflow.continue_as_new()

    run = Run(body, **PLUGIN).start()
    run.activate(signal("note"))
    run.activate(completed("x"))
    run.activate(completed("main"))
    assert run.names == ["undo_x"]
    run.activate(completed("undo_x"))
    assert run.closed == ("continue_as_new", [])
    run.check()


def test_rule_12_a_bug_in_the_main_method_does_not_unwind_the_handlers_sagas() -> None:
    @flow
    async def body() -> None:
        async def work() -> None:
            async with new_saga("handler") as saga:
                await do(saga, "x")
                await asyncio.sleep(60)

        workflow.set_signal_handler("note", work)
        await workflow.execute_activity("main", **OPTIONS)
        raise TypeError("a bug")

    run = Run(body, **PLUGIN).start()
    run.activate(signal("note"))
    run.activate(completed("x"))
    run.activate(completed("main"))
    assert end(run) == "task: TypeError"
    assert run.history == ["main", "x"]
    run.check()


if sys.version_info >= (3, 11):

    @flow
    async def a_group_around_a_saga() -> None:
        async def part(name: str) -> None:
            async with new_saga(name) as saga:
                await do(saga, name)
                await do(saga, f"{name}2")

        async with asyncio.TaskGroup() as group:
            group.create_task(part("x"))
            group.create_task(part("y"))

    def test_rule_12_a_group_that_leaves_the_main_method_fails_with_its_leaf() -> None:
        run = Run(a_group_around_a_saga, **PLUGIN).autopilot({"x2:do": REFUSED, "y2:do": "fine"})
        assert end(run) == "ActivityError"
        assert run.error.activity_type == "x2"
        assert {"undo_x", "undo_x2"} <= set(undone(run))
        run.check()

    def test_rule_12_without_the_plugin_a_group_fails_the_task() -> None:
        run = Run(a_group_around_a_saga).autopilot({"x2:do": REFUSED})
        assert end(run) == "task: ExceptionGroup"

    def test_rule_12_a_group_with_a_bug_fails_the_task() -> None:
        @flow
        async def body() -> None:
            await workflow.execute_activity("main", **OPTIONS)
            raise ExceptionGroup("g", [REFUSED, TypeError("a bug")])

        run = Run(body, **PLUGIN).autopilot({})
        assert end(run) == "task: ExceptionGroup"
        run.check()


def test_rule_12_eviction_while_the_close_is_held() -> None:
    run = Run(in_a_handler(), **PLUGIN).start()
    run.activate(update("work"))
    run.activate(completed("x"))
    run.activate(completed("main"))
    run.restart()
    run.activate(cancelled("y"))
    run.restart()
    run.activate(completed("undo_y"))
    run.restart()
    run.activate(completed("undo_x"))
    assert run.result == "main is done"
    run.check()


def test_rule_12_a_timer_in_the_main_method_is_no_reason_to_hold() -> None:
    @flow
    async def body() -> None:
        workflow.set_signal_handler("bad", _bad)
        await asyncio.sleep(60)

    run = Run(body, **PLUGIN).start()
    run.activate(signal("bad"))
    assert end(run) == "FromTheHandler"
    run.check()
    asleep = Run(body, **PLUGIN).start()
    asleep.activate(timer())
    assert end(asleep) == "None"
    asleep.check()


async def _bad() -> None:
    raise ApplicationError("from the handler", type="FromTheHandler")


def test_rule_12_a_saga_of_a_callback_ends_with_the_unwind_that_runs_it() -> None:
    @flow
    async def body() -> str:
        async def undo() -> None:
            async with new_saga("undoing") as saga:
                await do(saga, "p")
                await do(saga, "q")

        async def work() -> None:
            async with new_saga("handler") as saga:
                saga.add_callback(undo)
                await do(saga, "x")
                raise REFUSED

        workflow.set_signal_handler("note", work)
        await workflow.execute_activity("main", **OPTIONS)
        return "main is done"

    run = Run(body, **PLUGIN).start()
    run.activate(signal("note"))
    run.activate(completed("x"))
    run.activate(completed("undo_x"))
    assert run.names == ["main", "p"]
    run.activate(completed("main"))
    run.activate(completed("p"))
    assert run.names == ["q"]
    assert cancels(run) == []
    run.activate(completed("q"))
    assert undone(run) == ["undo_x"]
    assert run.result == "main is done"
    run.check()
