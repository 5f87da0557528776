"""Rule 6: no compensation starts while a step of the saga is in flight."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Saga
from tests.driver import Event, Run, cancel, cancelled, completed, failed, signal, timed_out, update
from tests.rules.workflows import DECLINED, OPTIONS, REFUSED, cancels, do, end, flow, new_saga, undone

pytestmark = pytest.mark.usefixtures("collected")


@flow
async def one_fails_one_is_slow() -> None:
    async with new_saga() as saga:
        await do(saga, "a")
        await asyncio.gather(do(saga, "b"), do(saga, "slow"))


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (completed("slow"), ["undo_slow", "undo_b", "undo_a"]),
        (cancelled("slow"), ["undo_slow", "undo_b", "undo_a"]),
        (timed_out("slow"), ["undo_slow", "undo_b", "undo_a"]),
        (failed("slow", REFUSED), ["undo_slow", "undo_b", "undo_a"]),
        (failed("slow", DECLINED), ["undo_b", "undo_a"]),
    ],
    ids=["completes late", "is cancelled", "times out", "fails", "is declined"],
)
def test_rule_06_siblings_are_cancelled_awaited_and_undone(event: Event, expected: list[str]) -> None:
    run = Run(one_fails_one_is_slow).start()
    run.activate(completed("a"))
    slow = run.activity("slow").id
    assert run.activate(failed("b", REFUSED)) == [("request_cancel_activity", slow)]
    assert run.names == ["slow"]
    run.activate(event)
    run.autopilot({})
    assert undone(run) == expected
    assert end(run) == "ActivityError"
    assert run.error.activity_type == "b"
    run.check()


def test_rule_06_both_fail_in_one_activation() -> None:
    run = Run(one_fails_one_is_slow).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED), failed("slow", DECLINED))
    assert cancels(run) == []
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


def test_rule_06_a_cancel_while_draining() -> None:
    run = Run(one_fails_one_is_slow).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    assert run.activate(cancel()) == []
    assert run.activate(cancel()) == []
    run.activate(completed("slow"))
    run.autopilot({})
    assert undone(run) == ["undo_slow", "undo_b", "undo_a"]
    assert cancels(run) == ["slow"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_06_gather_that_returns_exceptions() -> None:
    @flow
    async def body() -> list[str]:
        async with new_saga() as saga:
            results = await asyncio.gather(*[do(saga, name) for name in "abc"], return_exceptions=True)
            return [type(result).__name__ for result in results]

    run = Run(body).start()
    run.activate(failed("a", REFUSED))
    assert cancels(run) == []
    run.activate(completed("c", "kept"))
    run.activate(failed("b", REFUSED))
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    assert run.result == ["ActivityError", "ActivityError", "str"]
    run.check()


def test_rule_06_steps_of_open_savepoints_are_drained_and_undone_in_place() -> None:
    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                await do(attempt, "c")
                await do(attempt, "never")

        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.gather(branch(saga), do(saga, "d"))

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(failed("d", DECLINED))
    assert run.names == ["c"]
    assert cancels(run) == ["c"]
    run.activate(completed("c"))
    run.autopilot({})
    assert run.history[:4] == ["a", "b", "d", "c"]
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_06_a_savepoint_that_unwinds_already_is_awaited() -> None:
    @flow
    async def body() -> None:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                raise ApplicationError("in the savepoint", type="Inner")

        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.gather(branch(saga), do(saga, "c"))

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert run.names == ["c", "undo_b"]
    run.activate(failed("c", REFUSED))
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    assert run.names == ["undo_c"]
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_c", "undo_a"]
    assert end(run) == "ActivityError"
    assert run.error.activity_type == "c"
    run.check()


def test_rule_06_no_new_step_starts_and_no_branch_goes_on() -> None:
    @flow
    async def body() -> list[str]:
        seen: list[str] = []

        async def branch(saga: Saga) -> None:
            try:
                await do(saga, "b")
            except asyncio.CancelledError:
                seen.append("drained")
                try:
                    await do(saga, "never")
                except BaseException as error:
                    seen.append(type(error).__name__)

        try:
            async with new_saga() as saga:
                await do(saga, "a")
                branching = asyncio.create_task(branch(saga))
                await do(saga, "c")
        except ApplicationError:
            pass
        except Exception:
            assert seen == []  # the caller was held until here
            await branching
        return seen

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(failed("c", REFUSED))
    run.activate(completed("b"))
    assert run.names == ["undo_b"]
    run.autopilot({})
    assert run.history == ["a", "c", "b", "undo_b", "undo_c", "undo_a"]
    # Released once the saga has ended: a later step is told so.
    assert run.result == ["drained", "SagaClosed"]
    run.check()


def test_rule_06_a_call_during_the_unwind_is_held_and_then_cancelled() -> None:
    @flow
    async def body() -> list[str]:
        seen: list[str] = []
        go: list[int] = []
        workflow.set_signal_handler("go", go.append)

        async def branch(saga: Saga) -> None:
            await workflow.wait_condition(lambda: bool(go))
            try:
                await do(saga, "never")
            except asyncio.CancelledError:
                seen.append("cancelled")

        try:
            async with new_saga() as saga:
                branching = asyncio.create_task(branch(saga))
                await do(saga, "a")
                raise REFUSED
        except ApplicationError:
            assert seen == []
            await branching
        return seen

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.activate(signal("go", 1)) == []
    run.activate(completed("undo_a"))
    assert run.history == ["a", "undo_a"]
    assert run.result == ["cancelled"]
    run.check()


def handling() -> type[Any]:
    """Return a workflow whose update `work` is a step of the saga of the main method."""

    @flow
    async def body() -> None:
        async with new_saga() as saga:

            async def work(name: str) -> str:
                return str(await do(saga, name))

            workflow.set_update_handler("work", work)
            await do(saga, "a")
            await do(saga, "b")

    return body


def test_rule_06_an_update_handler_that_runs_a_step_while_the_body_fails() -> None:
    run = Run(handling()).start()
    run.activate(completed("a"))
    run.activate(update("work", "u"))
    assert run.names == ["b", "u"]
    run.activate(failed("b", REFUSED))
    assert run.names == ["u"]
    assert cancels(run) == ["u"]
    run.activate(completed("u", "done"))
    assert run.names == ["undo_u"]
    run.autopilot({})
    assert undone(run) == ["undo_u", "undo_b", "undo_a"]
    assert end(run) == "ActivityError"
    # The handler was held until the saga had ended, so its error cannot have closed the run first.
    kinds = [command[0] for command in run.activations[-1].commands]
    assert "fail" in kinds
    assert "update_completed" not in [command[0] for command in run.commands]
    run.check()


def test_rule_06_an_update_that_comes_during_the_unwind() -> None:
    run = Run(handling()).start()
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    run.activate(update("work", "late"))
    assert run.names == ["undo_b"]
    run.autopilot({})
    assert run.history == ["a", "b", "undo_b", "undo_a"]
    assert end(run) == "ActivityError"
    run.check()


def test_rule_06_a_step_of_an_update_that_fails_is_the_updates_own_affair() -> None:
    run = Run(handling()).start()
    run.activate(update("work", "u"))
    run.activate(failed("u", REFUSED))
    assert run.commands[-1][0] == "update_rejected"
    run.activate(completed("a"))
    run.activate(completed("b"))
    # Rule 7: nobody has undone what may have been applied.
    assert run.names == ["undo_u"]
    run.activate(completed("undo_u"))
    assert end(run) == "None"
    run.check()


def test_rule_06_a_registration_during_the_unwind_is_undone() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            workflow.set_signal_handler("found", lambda name: saga.add_compensation(name, 7))
            await do(saga, "a")
            await do(saga, "b")
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    run.activate(signal("found", "undo_late"))
    run.activate(completed("undo_b"))
    assert run.names == ["undo_late"]
    run.activate(signal("found", "undo_later"), completed("undo_late"))
    assert run.names == ["undo_later"]
    run.autopilot({})
    assert undone(run) == ["undo_b", "undo_late", "undo_later", "undo_a"]
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("order", ["reverse", "concurrent"])
def test_rule_06_a_registration_with_the_end_of_the_last_undo_is_undone(order: Any) -> None:
    async def callback(saga: Saga) -> None:
        saga.add_compensation("undo_found")

    @flow
    async def body() -> None:
        async with new_saga(order=order) as saga:
            workflow.set_signal_handler("found", lambda: saga.add_compensation("undo_late"))
            saga.add_callback(callback, saga)
            raise REFUSED

    run = Run(body).start()
    assert run.names == ["undo_found"]
    run.activate(signal("found"), completed("undo_found"))
    assert run.names == ["undo_late"]
    run.autopilot({})
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("how", ["in the callback", "in a task of it"])
def test_rule_06_a_callback_that_calls_a_step_of_its_saga_is_misuse(how: str) -> None:
    async def callback(saga: Saga) -> None:
        if how == "in the callback":
            await do(saga, "never")
        else:
            await asyncio.create_task(do(saga, "never"))

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(callback, saga)
            raise REFUSED

    run = Run(body).autopilot({})
    assert end(run) == "task: RuntimeError"
    assert "callback" in run.commands[-1][2]
    assert run.history == ["a"]
    run.check()


def test_rule_06_a_callback_may_run_a_saga_of_its_own() -> None:
    async def callback() -> None:
        async with new_saga("undoing") as saga:
            await do(saga, "x")
            await do(saga, "y")

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            saga.add_callback(callback)
            raise REFUSED

    run = Run(body).autopilot({})
    assert run.history == ["a", "x", "y", "undo_a"]
    assert end(run) == "Refused"
    run.check()


def test_rule_06_a_scope_that_ends_well_waits_for_its_steps() -> None:
    @flow
    async def body() -> str:
        async with new_saga() as saga:
            asyncio.create_task(do(saga, "outlives")).add_done_callback(lambda task: task.exception())
            await do(saga, "a")
        return "done"

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.closed is None
    assert cancels(run) == []
    run.activate(completed("outlives"))
    assert run.result == "done"
    run.check()

    failing = Run(body).start()
    failing.activate(completed("a"))
    failing.activate(failed("outlives", REFUSED))
    # Nobody saw its error: rule 7.
    assert failing.names == ["undo_outlives"]
    failing.activate(completed("undo_outlives"))
    assert failing.result == "done"
    failing.check()


def test_rule_06_a_cancel_while_a_scope_waits_for_its_steps() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            asyncio.create_task(do(saga, "outlives")).add_done_callback(lambda task: task.cancelled())
            await do(saga, "a")

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    assert cancels(run) == ["outlives"]
    assert run.names == ["outlives"]
    run.activate(completed("outlives"))
    run.autopilot({})
    assert run.history == ["a", "outlives", "undo_outlives", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_06_a_savepoint_in_a_task_is_awaited_by_a_good_end() -> None:
    @flow
    async def body() -> str:
        async def branch(saga: Saga) -> None:
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                await do(attempt, "c")

        async with new_saga() as saga:
            branching = asyncio.create_task(branch(saga))
            await do(saga, "a")
        await branching
        return str(saga.report().state)

    run = Run(body).start()
    run.activate(completed("a"))
    assert run.closed is None
    run.activate(completed("b"))
    assert run.closed is None
    run.activate(completed("c"))
    assert run.result == "COMPLETED"
    run.check()


def test_rule_06_a_plain_activity_is_no_step() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            plain = asyncio.create_task(workflow.execute_activity("plain", **OPTIONS))
            await do(saga, "a")
            assert not plain.done()
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    assert sorted(run.names) == ["plain", "undo_a"]
    assert cancels(run) == []
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


def test_rule_06_a_query_in_the_middle_of_an_unwind_and_after_the_close() -> None:
    run = Run(one_fails_one_is_slow).start()

    def states() -> Any:
        (report,) = run.query("saga_report")
        return report["state"], [(s["name"], s["state"], s["undo"], s["undo_state"]) for s in report["steps"]]

    assert states() == ("OPEN", [("a", "RUNNING", "undo_a", "PENDING")])
    run.activate(completed("a"))
    run.activate(failed("b", REFUSED))
    assert states() == (
        "UNWINDING",
        [
            ("a", "APPLIED", "undo_a", "PENDING"),
            ("b", "UNKNOWN", "undo_b", "PENDING"),
            ("slow", "RUNNING", "undo_slow", "PENDING"),
        ],
    )
    run.activate(failed("slow", DECLINED))
    assert states() == (
        "UNWINDING",
        [
            ("a", "APPLIED", "undo_a", "PENDING"),
            ("b", "UNKNOWN", "undo_b", "RUNNING"),
            ("slow", "NOT_APPLIED", None, None),
        ],
    )
    run.activate(completed("undo_b"))
    run.activate(completed("undo_a"))
    assert states() == (
        "COMPENSATED",
        [("a", "APPLIED", "undo_a", "DONE"), ("b", "UNKNOWN", "undo_b", "DONE"), ("slow", "NOT_APPLIED", None, None)],
    )
    run.check()
