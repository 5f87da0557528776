"""The driver behaves as the SDK's worker and Core do, shown with plain workflows."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from datetime import timedelta
from typing import Any

import pytest
import temporalio.exceptions
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.worker import (
    ExecuteWorkflowInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import ActivityCancellationType

from tests.driver import (
    HANG,
    Run,
    cancel,
    cancelled,
    child_already_started,
    child_cancelled,
    child_completed,
    child_failed,
    child_started,
    completed,
    failed,
    signal,
    timed_out,
    timer,
    update,
)

SECOND = timedelta(seconds=1)


async def activity(
    name: str, *args: Any, kind: ActivityCancellationType = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
) -> Any:
    return await workflow.execute_activity(
        name, args=args, activity_id=f"{name}-id", start_to_close_timeout=SECOND,
        cancellation_type=kind,
    )  # fmt: skip


@workflow.defn
class Two:
    @workflow.run
    async def run(self, amount: int) -> Any:
        first = await activity("first", amount)
        await asyncio.sleep(5)
        return first + await activity("second", amount, "x")


def test_commands_are_readable_and_results_go_in() -> None:
    run = Run(Two, 3).start()
    assert run.commands == [("schedule_activity", "first-id", "first", [3])]
    assert run.activate(completed("first", 40)) == [("start_timer", 5.0)]
    assert run.activate(timer()) == [("schedule_activity", "second-id", "second", [3, "x"])]
    assert run.activate(completed("second-id", 2)) == [("complete", 42)]
    assert run.result == 42
    assert run.history == ["first", "second"]
    run.check()


def test_an_activity_fails_as_it_does_on_a_server() -> None:
    run = Run(Two, 3).start()
    run.activate(failed("first", ApplicationError("no", 7, type="Refused", non_retryable=True)))
    assert isinstance(run.error, ActivityError)
    assert (run.error.activity_id, run.error.activity_type) == ("first-id", "first")
    cause = run.error.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.details, cause.non_retryable) == ("Refused", (7,), True)


@pytest.mark.parametrize(
    ("kind", "started"),
    [(TimeoutType.START_TO_CLOSE, True), (TimeoutType.HEARTBEAT, True), (TimeoutType.SCHEDULE_TO_START, False)],
)
def test_an_activity_times_out(kind: TimeoutType, started: bool) -> None:
    run = Run(Two, 3).start()
    run.activate(timed_out("first", kind, cause=ApplicationError("last attempt")))
    assert isinstance(run.error, ActivityError)
    assert bool(run.error.started_event_id) is started
    timeout = run.error.cause
    assert isinstance(timeout, temporalio.exceptions.TimeoutError)
    assert timeout.type is kind
    assert isinstance(timeout.cause, ApplicationError)


def test_a_pending_name_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"'nothing' is not pending, but .*first"):
        Run(Two, 3).start().activate(completed("nothing"))


@workflow.defn
class Cancelled:
    """Cancels its activity at once, after a timer, or never."""

    @workflow.run
    async def run(self, kind: int, after: int) -> str:
        task = asyncio.create_task(activity("a", kind=ActivityCancellationType(kind)))
        if after:
            await asyncio.sleep(after)
        for _ in range(3):  # lets the activity's own task run; no timer
            await asyncio.sleep(0)
        task.cancel()
        try:
            return str(await task)
        except (ActivityError, asyncio.CancelledError) as error:
            length = workflow.info().get_current_history_length()
            return f"{type(error).__name__} {length}"


@pytest.mark.parametrize("kind", ActivityCancellationType)
def test_an_activity_cancelled_in_its_own_workflow_task_never_existed(kind: int) -> None:
    run = Run(Cancelled, int(kind), 0).start()
    scheduled: tuple[object, ...] = ("schedule_activity", "a-id", "a", [])
    assert run.commands[:2] == [scheduled, ("request_cancel_activity", "a-id")]
    first_task = run.activations[0].request.history_length
    assert run.result == f"ActivityError {first_task}"
    assert run.history == []
    run.check()


def test_try_cancel_resolves_at_once_and_wait_when_the_test_says_so() -> None:
    run = Run(Cancelled, int(ActivityCancellationType.TRY_CANCEL), 1).start()
    run.activate(timer())
    assert run.result.startswith("ActivityError")
    assert run.history == ["a"]
    run.check()

    waiting = Run(Cancelled, int(ActivityCancellationType.WAIT_CANCELLATION_COMPLETED), 1).start()
    waiting.activate(timer())
    assert waiting.closed is None
    assert waiting.activity("a").cancel_requested
    waiting.activate(cancelled("a"))
    assert waiting.result.startswith("ActivityError")
    waiting.check()

    late = Run(Cancelled, int(ActivityCancellationType.WAIT_CANCELLATION_COMPLETED), 1).start()
    late.activate(timer())
    late.activate(completed("a", "came late"))
    assert late.result == "came late"
    late.check()


def test_history_grows_by_workflow_task_unless_told() -> None:
    run = Run(Two, 3).start()
    run.activate(completed("first", 1), same_task=True)
    run.activate(timer(), history_length=77)
    run.activate(completed("second", 1))
    lengths = [done.request.history_length for done in run.activations]
    assert lengths[0] == lengths[1] < lengths[2] == 77 < lengths[3]


@workflow.defn
class Sleeper:
    @workflow.run
    async def run(self) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await activity("cleanup")
            raise
        return str(workflow.now())


def test_cancel_reaches_a_sleep_and_the_time_is_virtual() -> None:
    run = Run(Sleeper).start()
    run.activate(cancel())
    assert run.commands[1:] == [
        ("cancel_timer", 3600.0), ("schedule_activity", "cleanup-id", "cleanup", []),
    ]  # fmt: skip
    run.activate(completed("cleanup"))
    assert run.was_cancelled
    run.check()

    asleep = Run(Sleeper).start()
    asleep.advance(timedelta(minutes=59))
    assert asleep.closed is None
    asleep.advance(timedelta(minutes=2))
    assert asleep.result == "2030-01-01 01:00:00+00:00"


def test_cancel_together_with_the_start() -> None:
    run = Run(Sleeper).start(cancel())
    run.activate(completed("cleanup"))
    assert run.was_cancelled
    run.check()


@workflow.defn
class Handlers:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @workflow.run
    async def run(self) -> list[str]:
        await workflow.wait_condition(lambda: "end" in self.seen)
        return self.seen

    @workflow.signal
    async def note(self, what: str) -> None:
        self.seen.append(what)

    @workflow.update
    async def work(self, what: str) -> str:
        result = str(await activity(what))
        if result == "bad":
            raise ApplicationError("bad")
        return result

    @work.validator
    def check(self, what: str) -> None:
        if not what:
            raise ValueError("empty")

    @workflow.query
    def so_far(self) -> list[str]:
        return self.seen


def test_signals_updates_and_queries() -> None:
    run = Run(Handlers).start()
    run.activate(signal("note", "one"))
    assert run.query("so_far") == ["one"]
    assert run.activate(update("work", "", update_id="refused"))[0][:2] == ("update_rejected", "refused")
    run.activate(update("work", "a", update_id="good"), signal("note", "two"))
    assert run.commands[-2:] == [
        ("update_accepted", "good"), ("schedule_activity", "a-id", "a", []),
    ]  # fmt: skip
    assert run.activate(completed("a", "done")) == [("update_completed", "good", "done")]
    run.activate(update("work", "b"))
    (answer,) = run.activate(completed("b", "bad"))
    assert answer[:2] == ("update_rejected", "work")
    assert answer[2].message == "bad"
    with pytest.raises(ApplicationError, match="expected but not found"):
        run.query("unknown")
    run.activate(signal("note", "end"))
    assert run.result == ["one", "two", "end"]
    assert run.query("so_far") == ["one", "two", "end"]
    run.check()


def test_a_rejected_update_is_not_in_the_history_that_is_replayed() -> None:
    run = Run(Handlers).start()
    run.activate(update("work", "", update_id="refused"), signal("note", "end"))
    assert run.result == ["end"]
    run.replay()


@workflow.defn
class Child:
    @workflow.run
    async def run(self, waits: bool) -> str:
        kind = workflow.ChildWorkflowCancellationType
        try:
            result = await workflow.execute_child_workflow(
                "Part", 5, id="part-1", cancellation_type=kind.WAIT_CANCELLATION_COMPLETED if waits else kind.TRY_CANCEL
            )
        except temporalio.exceptions.ChildWorkflowError as error:
            return f"{type(error.cause).__name__}"
        except temporalio.exceptions.WorkflowAlreadyStartedError:
            return "exists"
        return str(result)


def test_child_workflows() -> None:
    run = Run(Child, True).start()
    assert run.commands == [("start_child", "part-1", "Part", [5])]
    run.activate(child_started("Part"))
    run.activate(child_completed("part-1", 6))
    assert run.result == "6"
    run.check()

    bad = Run(Child, True).start()
    bad.activate(child_started("Part"))
    bad.activate(child_failed("Part", ApplicationError("no")))
    assert bad.result == "ApplicationError"

    there = Run(Child, True).start()
    there.activate(child_already_started("Part"))
    assert there.result == "exists"

    stopped = Run(Child, True).start()
    stopped.activate(child_started("Part"))
    assert stopped.activate(cancel()) == [("cancel_child", "part-1")]
    stopped.activate(child_cancelled("Part"))
    assert stopped.result == "CancelledError"
    stopped.check()

    tried = Run(Child, False).start()
    tried.activate(child_started("Part"))
    tried.activate(cancel())
    assert tried.result == "CancelledError"
    tried.check()

    never = Run(Child, True).start(cancel())
    assert [command[0] for command in never.commands] == ["start_child", "cancel_child", "cancel"]


@workflow.defn
class Order:
    """What comes first in one activation decides."""

    @workflow.run
    async def run(self) -> str:
        tasks = [asyncio.create_task(activity(name)) for name in ("a", "b")]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = [name for name, task in zip("ab", tasks, strict=True) if task in done]
        await asyncio.wait(tasks)
        return "".join(first)


def test_several_events_in_one_activation_keep_their_order() -> None:
    run = Run(Order).start()
    assert run.names == ["a", "b"]
    run.activate(completed("b"))
    run.activate(completed("a"))
    assert run.result == "b"
    both = Run(Order).start()
    both.activate(completed("b"), completed("a"))
    assert len(both.activations) == 2
    both.check()


@workflow.defn
class Again:
    @workflow.run
    async def run(self, count: int) -> None:
        workflow.continue_as_new(count + 1)


def test_continue_as_new() -> None:
    assert Run(Again, 1).start().closed == ("continue_as_new", [2])


@workflow.defn(name="Buggy")
class Buggy:
    @workflow.run
    async def run(self) -> str:
        first = await activity("first")
        await activity("never" if first else first + 1)
        return "fine"


@workflow.defn(name="Buggy")
class Repaired:
    @workflow.run
    async def run(self) -> str:
        await activity("first")
        return str(await activity("second"))


def test_a_bug_fails_the_task_and_repaired_code_carries_on() -> None:
    run = Run(Buggy).start()
    (failure,) = run.activate(completed("first", None))
    assert failure[:2] == ("task_failed", "TypeError")
    with pytest.raises(AssertionError, match="restart"):
        run.activate()
    run.check()
    run.restart(Repaired)
    assert run.names == ["second"]
    run.activate(completed("second", "now"))
    assert run.result == "now"
    run.check()


def test_a_restart_in_the_middle_loses_nothing() -> None:
    run = Run(Two, 3).start()
    run.restart()
    run.activate(completed("first", 1))
    run.restart()
    run.activate(timer())
    run.restart()
    run.activate(completed("second", 1))
    assert run.result == 2
    run.check()


@workflow.defn(name="Two")
class Different:
    @workflow.run
    async def run(self, amount: int) -> None:
        await activity("first", amount + 1)


def test_replay_finds_other_commands() -> None:
    run = Run(Two, 3).start()
    with pytest.raises(AssertionError, match=r"workflow task 1 gave .* and replayed"):
        run.replay(Different)
    with pytest.raises(AssertionError, match=r"workflow task 1 gave .* and replayed"):
        run.restart(Different)


@workflow.defn
class Clings:
    """Ignores every cancellation, and with it its eviction."""

    @workflow.run
    async def run(self, how: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if how == "log":
                logging.getLogger("mine").warning("cancelled")
                raise
            await asyncio.get_running_loop().create_future()


def test_eviction_that_is_not_clean_is_found() -> None:
    with pytest.raises(RuntimeError, match="tasks remain"):
        Run(Clings, "stay").start().evict()
    with pytest.raises(AssertionError, match="logged during eviction"):
        Run(Clings, "log").start().check()


@workflow.defn
class LogsInReplay:
    @workflow.run
    async def run(self) -> None:
        logging.getLogger("mine").warning("ran")


def test_a_log_in_replay_is_found() -> None:
    with pytest.raises(AssertionError, match="logged during replay"):
        Run(LogsInReplay).start().replay()


@workflow.defn
class BatchSensitive:
    """A signal handler sees the result of its own activation only in a single batch."""

    def __init__(self) -> None:
        self.result: Any = None
        self.seen: list[Any] = []

    @workflow.run
    async def run(self) -> list[Any]:
        self.result = workflow.start_activity(
            "a", start_to_close_timeout=SECOND, cancellation_type=ActivityCancellationType.ABANDON
        )
        await self.result
        await workflow.wait_condition(lambda: bool(self.seen))
        return self.seen

    @workflow.signal
    async def look(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.seen.append(self.result.done())


def test_the_single_batch_flag_reaches_the_sdk() -> None:
    results = []
    for single_batch in (False, True):
        run = Run(BatchSensitive, single_batch=single_batch).start()
        run.activate(completed("a"), signal("look"))
        results.append(run.result)
        run.replay()
        with pytest.raises(AssertionError, match="and replayed"):
            run.replay(single_batch=not single_batch)
    assert results == [[False], [True]]


class Marker(Interceptor):
    def workflow_interceptor_class(self, _: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor] | None:
        class Inbound(WorkflowInboundInterceptor):
            async def execute_workflow(self, call: ExecuteWorkflowInput) -> Any:
                return await super().execute_workflow(call) + 1000

        return Inbound


def test_interceptors_and_the_sandbox() -> None:
    run = Run(Two, 1, interceptors=[Marker()]).autopilot({"first": 1, "second": 2})
    assert run.result == 1003
    run.check()
    sandboxed = Run(Two, 1, runner=SandboxedWorkflowRunner()).autopilot({"first": 1, "second": 2})
    assert sandboxed.result == 3
    sandboxed.check()


@workflow.defn
class Ids:
    @workflow.run
    async def run(self) -> list[str]:
        info = workflow.info()
        return [info.workflow_id, info.run_id, info.original_execution_run_id]


def test_a_reset_run_has_another_run_id() -> None:
    plain = Run(Ids, workflow_id="w").start().result
    assert plain[0] == "w"
    assert plain[1] == plain[2]
    reset = Run(Ids, run_id="r2", original_execution_run_id="r1").start().result
    assert reset[1:] == ["r2", "r1"]


def test_autopilot() -> None:
    assert Run(Two, 1).autopilot({"first": lambda a: a.args[0], "second": 2}).result == 3

    def refuse(_: object) -> None:
        raise ApplicationError("no", type="No")

    assert Run(Two, 1).autopilot({"first": refuse}).error.cause.type == "No"
    with pytest.raises(AssertionError, match="waits for ever: open; activities \\['first'\\]"):
        Run(Two, 1).autopilot({"first": HANG})
    hanging = Run(Two, 1).autopilot({"first": HANG}, cancel_at=[1])
    assert hanging.was_cancelled
    assert Run(Sleeper).autopilot({}, cancel_at=[0]).was_cancelled
    assert Run(Child, True).autopilot({"Part": 9}).result == "9"
    assert Run(Child, True).autopilot({"Part": HANG}, cancel_at=[2]).result == "CancelledError"


async def test_it_works_inside_a_running_loop() -> None:
    loop = asyncio.get_running_loop()
    run = Run(Two, 3).autopilot({"first": 1, "second": 2})
    run.check()
    assert asyncio.get_running_loop() is loop
    await asyncio.sleep(0)


def test_a_dropped_run_is_torn_down_quietly(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Sleeper).start()
    del run
    Run(Two, 3).autopilot({"first": 1, "second": 2})
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.skipif(sys.gettrace() is not None, reason="tracing slows it down")
def test_a_run_takes_about_a_millisecond() -> None:
    def best() -> float:
        times = []
        for _ in range(20):
            before = time.perf_counter()
            Run(Two, 3).autopilot({"first": 1, "second": 2})
            times.append(time.perf_counter() - before)
        return min(times)

    assert best() < 0.01
