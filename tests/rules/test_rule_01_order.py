"""Rule 1: compensations run in the reverse order in which their steps began."""

from __future__ import annotations

import asyncio

import pytest
from temporalio import workflow

from temporal_saga import Saga
from tests.driver import Run, cancel, completed, failed, signal
from tests.rules.workflows import REFUSED, do, end, flow, new_saga, undone


def test_rule_01_newest_first() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            for name in "abc":
                await do(saga, name)
            raise REFUSED

    run = Run(body).autopilot({})
    assert run.history == ["a", "b", "c", "undo_c", "undo_b", "undo_a"]
    assert [activity.args for activity in run.scheduled] == [["a"], ["b"], ["c"], ["c"], ["b"], ["a"]]
    assert end(run) == "Refused"
    run.check()


def test_rule_01_one_waits_for_the_next_newer() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await do(saga, "b")
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


@pytest.mark.parametrize("ends", ["abc", "cab", "cba"])
def test_rule_01_parallel_steps_by_their_start(ends: str) -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await asyncio.gather(*[do(saga, name) for name in "abc"])
            raise REFUSED

    run = Run(body).start()
    for name in ends:
        run.activate(completed(name))
    run.autopilot({})
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    run.check()


def test_rule_01_a_step_begins_when_its_command_is_scheduled() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            later = do(saga, "called_first")
            try:
                await do(saga, "began_first")
                await later
            finally:
                later.close()  # an eviction leaves it unawaited
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_called_first", "undo_began_first"]
    run.check()


def test_rule_01_pushes_are_ordered_by_the_time_of_the_push() -> None:
    seen: list[str] = []

    async def note(what: str, *, more: str) -> None:
        seen.append(what + more)

    @flow
    async def body() -> None:
        async with new_saga() as saga:
            saga.add_compensation("undo_0", 0)
            await do(saga, "a")
            saga.add_compensation("undo_1", args=[1, 2])
            saga.add_callback(note, "x", more="y")
            await do(saga, "b")
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_b", "undo_1", "undo_a", "undo_0"]
    assert [activity.args for activity in run.scheduled[2:]] == [["b"], [1, 2], ["a"], [0]]
    assert [activity.id.split(":")[1] for activity in run.scheduled[2:]] == ["undo", "push", "undo", "push"]
    assert seen == ["xy"]
    run.check()


def test_rule_01_a_savepoint_joins_in_place() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            async with saga.savepoint() as attempt:
                await do(attempt, "b")
                await do(saga, "c")
                await do(attempt, "d")
            await do(saga, "e")
            raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_e", "undo_d", "undo_c", "undo_b", "undo_a"]
    run.check()


def test_rule_01_two_sagas_in_a_row_and_nested() -> None:
    @flow
    async def body() -> None:
        async with new_saga("first") as saga:
            await do(saga, "a")
        async with new_saga("outer") as outer:
            await do(outer, "b")
            async with new_saga("inner") as inner:
                await do(inner, "c")
            await do(outer, "d")
            raise REFUSED

    # A saga that ended well is final: `a` and `c` stand.
    run = Run(body).autopilot({})
    assert run.history == ["a", "b", "c", "d", "undo_d", "undo_b"]
    run.check()


def test_rule_01_nested_sagas_unwind_from_the_inside() -> None:
    @flow
    async def body() -> None:
        async with new_saga("outer") as outer:
            await do(outer, "a")
            async with new_saga("inner") as inner:
                await do(inner, "b")
                raise REFUSED

    run = Run(body).autopilot({})
    assert undone(run) == ["undo_b", "undo_a"]
    run.check()


def concurrent() -> Saga:
    return new_saga(order="concurrent")


def test_rule_01_concurrent_undoes_at_once_what_overlapped() -> None:
    @flow
    async def body() -> None:
        async with concurrent() as saga:
            await do(saga, "a")
            await asyncio.gather(do(saga, "b"), do(saga, "c"))
            await do(saga, "d")
            raise REFUSED

    run = Run(body).start()
    for name in "abcd":
        run.activate(completed(name))
    assert run.names == ["undo_d"]
    run.activate(completed("undo_d"))
    assert sorted(run.names) == ["undo_b", "undo_c"]
    run.activate(completed("undo_c"))
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert end(run) == "Refused"
    run.check()


def test_rule_01_concurrent_keeps_the_order_of_steps_that_followed_each_other() -> None:
    @flow
    async def body() -> None:
        async with concurrent() as saga:
            long = asyncio.create_task(do(saga, "long"))
            await do(saga, "first")
            await do(saga, "second")
            await long
            raise REFUSED

    run = Run(body).start()
    for name in ("first", "second", "long"):
        run.activate(completed(name))
    assert sorted(run.names) == ["undo_long", "undo_second"]
    run.activate(completed("undo_long"))
    assert run.names == ["undo_second"]
    run.activate(completed("undo_second"))
    assert run.names == ["undo_first"]
    run.autopilot({})
    run.check()


def test_rule_01_concurrent_goes_on_after_one_that_failed() -> None:
    @flow
    async def body() -> None:
        async with concurrent() as saga:
            await do(saga, "a")
            await asyncio.gather(do(saga, "b"), do(saga, "c"))
            raise REFUSED

    run = Run(body).start()
    for name in "abc":
        run.activate(completed(name))
    run.activate(failed("undo_b", REFUSED))
    assert run.names == ["undo_c"]
    run.activate(completed("undo_c"))
    assert run.names == ["undo_a"]
    run.activate(completed("undo_a"))
    assert end(run) == "CompensationError"
    run.check()


def test_rule_01_concurrent_pushes_run_one_after_another() -> None:
    @flow
    async def body() -> None:
        async with concurrent() as saga:
            saga.add_compensation("undo_1")
            saga.add_compensation("undo_2")
            raise REFUSED

    run = Run(body).start()
    assert run.names == ["undo_2"]
    run.activate(completed("undo_2"))
    assert run.names == ["undo_1"]
    run.autopilot({})
    run.check()


@pytest.mark.parametrize("count", [300, pytest.param(600, marks=pytest.mark.slow)])
def test_rule_01_many_at_once_stay_within_the_servers_limit(count: int) -> None:
    @flow
    async def body() -> None:
        async with concurrent() as saga:
            steps = [do(saga, "a", key=str(number)) for number in range(count)]
            await asyncio.gather(*steps)
            raise REFUSED

    run = Run(body).start()
    assert len(run.names) == count
    run.activate(*[completed(activity.id) for activity in run.activities])
    assert len(run.names) == min(count, 500)
    done = 0
    while run.closed is None:
        now = run.activities[:100]
        run.activate(*[completed(activity.id) for activity in now])
        done += len(now)
        assert len(run.names) == min(count - done, 500)
    assert len(undone(run)) == count
    assert end(run) == "Refused"
    run.check()


@pytest.mark.deep
def test_rule_01_two_thousand_in_a_row() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            steps = [saga.execute_activity("a", n, compensation="undo_a", key=str(n)) for n in range(2_000)]
            await asyncio.gather(*steps)
            raise REFUSED

    run = Run(body).start()
    run.activate(*[completed(activity.id) for activity in run.activities])
    run.autopilot({})
    assert [activity.args[0] for activity in run.scheduled[2_000:]] == list(range(1_999, -1, -1))
    run.replay()
    for count in (1, 2, 1_000, 2_002):
        run.evict_copy(count)


def test_rule_01_cancel_in_the_middle_of_parallel_steps() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await do(saga, "a")
            await asyncio.gather(do(saga, "b"), do(saga, "c"))

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(cancel())
    run.activate(completed("c"))
    assert undone(run) == []
    run.activate(completed("b"))
    run.autopilot({})
    assert undone(run) == ["undo_c", "undo_b", "undo_a"]
    assert end(run) == "Cancelled"
    run.check()


def test_rule_01_concurrent_a_late_registration_waits_for_what_did_not_overlap() -> None:
    @flow
    async def body() -> None:
        async with concurrent() as saga:
            workflow.set_signal_handler("found", lambda: saga.add_compensation("undo_late"))
            await asyncio.gather(do(saga, "a"), do(saga, "b"))
            raise REFUSED

    run = Run(body).start()
    run.activate(completed("a"))
    run.activate(completed("b"))
    assert sorted(run.names) == ["undo_a", "undo_b"]
    run.activate(signal("found"), completed("undo_a"))
    # It was pushed after `b` had ended, so the two never overlapped.
    assert run.names == ["undo_b"]
    run.activate(completed("undo_b"))
    assert run.names == ["undo_late"]
    run.autopilot({})
    assert end(run) == "Refused"
    run.check()
