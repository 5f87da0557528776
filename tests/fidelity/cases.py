"""The table: what is run here and there, and what of the simulator each case covers."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateStage,
)
from temporalio.common import RetryPolicy, SearchAttributePair, TypedSearchAttributes
from temporalio.converter import (
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    DefaultPayloadConverter,
    PayloadCodec,
)
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    HandleSignalInput,
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from temporal_saga.plugin import SagaPlugin

from . import workflows as w
from .activities import LOG
from .describe import chain
from .workflows import Options

# What point 1 of the testing kit's specification names, and what it takes to do that.
FEATURES = {
    "async activities",
    "sync activities",
    "activity methods",
    "activities at a time",
    "activity.info()",
    "heartbeats",
    "cancellation in activities",
    "current_step()",
    "payload conversion",
    "timers",
    "waiting for conditions",
    "retry policies",
    "attempt times",
    "next_retry_delay",
    "non_retryable types",
    "failures with causes and details",
    "schedule-to-close timeout",
    "schedule-to-start timeout",
    "start-to-close timeout",
    "heartbeat timeout",
    "TRY_CANCEL",
    "WAIT_CANCELLATION_COMPLETED",
    "ABANDON",
    "child workflows",
    "parent close policies",
    "cancellation of children",
    "external workflows",
    "signals",
    "queries",
    "updates",
    "validators",
    "continue-as-new",
    "patches",
    "workflow.now()",
    "workflow.random()",
    "workflow.uuid4()",
    "workflow.info()",
    "search attributes",
    "memo",
    "workflow interceptors",
    "activity interceptors",
    "plugins",
    "data converters",
    "the sandbox",
    "cancelling workflows",
    "terminating workflows",
    "workflow retries",
    "workflow timeouts",
    "failing workflows",
    "failing workflow tasks",
    "sagas",
}

Client = Callable[[Any, list[Any]], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """One workflow, and what a client does meanwhile.

    Attributes:
        covers: Features of the table above.
        run: The workflow.
        args: Its arguments.
        client: Called with a handle of the workflow and a list to write down what it sees.
        options: What the client gives to start it with.
        worker: Which of `WORKERS` runs it.
        is_long: Whether it takes so long that the server's clock must skip time.
        compares_times: Whether the times of the attempts count.
        unsent: Commands of the workflow that core answers by itself: no server hears of them.
        children: Workflows that outlive it, whose ends count.
        python: The Python that the workflow needs.
    """

    name: str
    covers: Sequence[str]
    run: Any
    args: Sequence[Any] = ()
    client: Client | None = None
    options: dict[str, Any] = field(default_factory=dict)
    worker: str = "plain"
    is_long: bool = False
    compares_times: bool = False
    unsent: Sequence[tuple[Any, ...]] = ()
    children: Sequence[str] = ()
    python: tuple[int, int] = (3, 10)

    @property
    def id(self) -> str:
        """The workflow's id, here and there."""
        return f"fidelity-{self.name.replace(' ', '-')}"


# --- what clients do ----------------------------------------------------------------------------


async def until(check: Callable[[], Awaitable[Any]] | Callable[[], Any]) -> None:
    """Wait, in the server's time or the virtual one."""
    for _ in range(1500):
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not within 30 s")


async def has_begun(handle: Any, activity_id: str = "1") -> None:
    """Wait until an activity of the workflow has begun."""
    await until(lambda: any(ran.workflow_id == handle.id and ran.activity_id.startswith(activity_id) for ran in LOG))
    # The worker has to be told of the failure or heartbeat that comes next.
    await asyncio.sleep(0.3)


async def cancel_activity(handle: Any, seen: list[Any]) -> None:
    await has_begun(handle)
    await handle.signal(w.CancelOnSignal.go)


async def cancel_in_an_activity(handle: Any, seen: list[Any]) -> None:
    await has_begun(handle)
    await handle.cancel()


async def cancel_in_a_step(handle: Any, seen: list[Any]) -> None:
    await has_begun(handle, "until_cancelled:do:")
    await handle.cancel()


async def cancel_when_asleep(handle: Any, seen: list[Any]) -> None:
    await until(lambda: is_asleep(handle))
    await handle.cancel(reason="enough")
    await handle_end(handle, seen)


async def is_asleep(handle: Any) -> bool:
    return bool(await handle.query(w.CleansUp.now) == "asleep")


async def handle_end(handle: Any, seen: list[Any]) -> None:
    try:
        seen.append(await handle.result())
    except WorkflowFailureError as error:
        seen.append(chain(error))


async def terminate(handle: Any, seen: list[Any]) -> None:
    await until(lambda: is_asleep(handle))
    await handle.terminate(reason="for a reason")
    await handle_end(handle, seen)
    try:
        await handle.signal("stop", "too late")
    except RPCError as error:
        seen.append([error.status.name, error.message])


async def end(handle: Any, how: str = "well") -> None:
    await handle.signal("stop", how)


async def post(handle: Any, seen: list[Any]) -> None:
    for letter in ("one", {"two": 2}, None):
        await handle.signal(w.Mailbox.post, letter)
    await end(handle)


async def post_to_dynamic(handle: Any, seen: list[Any]) -> None:
    await handle.signal("no such handler", "x")
    await end(handle)


async def post_later(handle: Any, seen: list[Any]) -> None:
    await handle.signal(w.Mailbox.post_later, "slow")
    await end(handle)


async def break_signal(handle: Any, seen: list[Any]) -> None:
    await handle.signal(w.Mailbox.broken)


async def tell_to_fail(handle: Any, seen: list[Any]) -> None:
    await end(handle, "fail")


async def ask(handle: Any, seen: list[Any]) -> None:
    seen.append(await handle.query(w.Mailbox.count))
    await handle.signal(w.Mailbox.post, "a letter")
    seen.append(await handle.query(w.Mailbox.count))
    seen.append(await handle.query(w.Mailbox.one, 0))
    seen.append(await handle.query("a query of any name", 7))
    try:
        await handle.query("letter", 5)
    except WorkflowQueryFailedError as error:
        seen.append(str(error))
    await end(handle)
    await handle_end(handle, seen)
    seen.append(await handle.query("count"))


async def ask_what_is_not_there(handle: Any, seen: list[Any]) -> None:
    await until(lambda: is_asleep(handle))
    try:
        await handle.query("unheard of")
    except WorkflowQueryFailedError as error:
        seen.append(str(error).partition("[")[0])
    await handle.terminate()


async def update(handle: Any, seen: list[Any]) -> None:
    seen.append(await handle.execute_update(w.Mailbox.put, "first", id="the-first"))
    seen.append(await handle.execute_update("put", "second", id="the-second"))
    sent = await handle.start_update(
        w.Mailbox.put_by_activity, "third", wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="the-third"
    )
    seen.append([sent.id, await sent.result()])
    await end(handle)


async def update_twice(handle: Any, seen: list[Any]) -> None:
    seen += [await handle.execute_update(w.Mailbox.put, letter, id="the-same") for letter in ("first", "second")]
    await end(handle)


async def messages_in_turn(handle: Any, seen: list[Any]) -> None:
    for number in range(3):
        await handle.signal(w.Mailbox.post, f"signal {number}")
        seen.append(await handle.execute_update(w.Mailbox.put, f"update {number}", id=f"update-{number}"))
        await handle.signal("unheard of", f"other {number}")
    seen.append(await handle.query(w.Mailbox.count))
    await end(handle)


async def updates_in_turn(handle: Any, seen: list[Any]) -> None:
    stage = WorkflowUpdateStage.ACCEPTED
    sent = [
        await handle.start_update(w.Mailbox.put_in_turn, name, wait_for_stage=stage, id=name)
        for name in ("first", "second", "third")
    ]
    await end(handle)
    seen += [await each.result() for each in reversed(sent)]


async def update_waits_for_a_signal(handle: Any, seen: list[Any]) -> None:
    sent = await handle.start_update(w.Mailbox.wait_for, "b", wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="waits")
    for letter in "ab":
        await handle.signal(w.Mailbox.post, letter)
    seen.append(await sent.result())
    await end(handle)


async def update_that_ends_it(handle: Any, seen: list[Any]) -> None:
    waits = await handle.start_update(w.Mailbox.wait_for, "b", wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="waits")
    seen.append(await handle.execute_update(w.Mailbox.put_and_end, "b", id="ends"))
    seen.append(await waits.result())


async def terminate_when_asleep(handle: Any, seen: list[Any]) -> None:
    await until(lambda: is_asleep(handle))
    await handle.terminate(reason="for a reason")


async def cancel_twice(handle: Any, seen: list[Any]) -> None:
    await until(lambda: is_asleep(handle))
    await handle.cancel(reason="once")
    await handle.cancel(reason="twice")
    await handle_end(handle, seen)


async def update_refused(handle: Any, seen: list[Any]) -> None:
    for letter in ("bad", "worse", "good"):
        try:
            seen.append(await handle.execute_update(w.Mailbox.put, letter, id=letter))
        except WorkflowUpdateFailedError as error:
            seen.append(chain(error))
    await end(handle)


async def decide(handle: Any, seen: list[Any]) -> None:
    async def parked() -> list[str]:
        return [step["key"] for saga in await handle.query("saga_report") for step in saga["steps"]
                if step["state"] == "PARKED"]  # fmt: skip

    for number, answers in enumerate([["done_by_hand", "", "retry"], ["give_up"]]):
        await until(parked)
        (key,) = await parked()
        for action in answers:
            who = "" if action == "" else "ann"
            try:
                id = f"{action}-{number}"
                seen.append(await handle.execute_update("saga_resolve", args=[key, action, who, "why"], id=id))
            except WorkflowUpdateFailedError as error:
                seen.append(chain(error))


async def update_fails(handle: Any, seen: list[Any]) -> None:
    for how in ("itself", "activity"):
        try:
            await handle.execute_update(w.Mailbox.refuse, how, id=how)
        except WorkflowUpdateFailedError as error:
            seen.append(chain(error))
    await end(handle)


async def update_unheard_of(handle: Any, seen: list[Any]) -> None:
    await until(lambda: is_asleep(handle))
    try:
        await handle.execute_update("unheard of", 1, id="u")
    except WorkflowUpdateFailedError as error:
        seen.append([type(error).__name__, str(error.cause).partition("[")[0]])
    await handle.terminate()


async def update_unfinished(handle: Any, seen: list[Any]) -> None:
    sent = await handle.start_update(w.Mailbox.never, wait_for_stage=WorkflowUpdateStage.ACCEPTED, id="never")
    await end(handle, "at once")
    try:
        await sent.result()
    except WorkflowUpdateFailedError as error:
        seen.append(chain(error))


async def update_too_late(handle: Any, seen: list[Any]) -> None:
    await end(handle)
    await handle_end(handle, seen)
    try:
        await handle.execute_update(w.Mailbox.put, "late")
    except RPCError as error:
        seen.append([error.status.name, error.message])
    try:
        await handle.cancel()
    except RPCError as error:
        seen.append([error.status.name, error.message])


async def post_early(handle: Any, seen: list[Any]) -> None:
    await handle.signal("late", "a")
    await handle.signal("late", "b")


async def terminate_after_a_failed_task(handle: Any, seen: list[Any]) -> None:
    async def has_failed() -> bool:
        if not isinstance(handle, WorkflowHandle):
            return True
        history = await handle.fetch_history()
        return any(event.HasField("workflow_task_failed_event_attributes") for event in history.events)

    await asyncio.sleep(0.2)
    await until(has_failed)
    await handle.terminate(reason="it never ends")


# --- the workers --------------------------------------------------------------------------------


class Tracing(Interceptor):
    """Hands a header from the workflow to its activities, and changes what passes."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        return _TracedWorkflow

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _TracedActivity(next)


class _TracedWorkflow(WorkflowInboundInterceptor):
    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        super().init(_TracedOutbound(outbound))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        return [await super().execute_workflow(input), "seen by the interceptor"]

    async def handle_signal(self, input: HandleSignalInput) -> None:
        input.args = [f"{arg}, intercepted" for arg in input.args]
        await super().handle_signal(input)


class _TracedOutbound(WorkflowOutboundInterceptor):
    def start_activity(self, input: StartActivityInput) -> workflow.ActivityHandle[Any]:
        payload = workflow.payload_converter().to_payload(f"for {input.activity}")
        input.headers = {**input.headers, "trace": payload}
        return super().start_activity(input)


class _TracedActivity(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        trace = activity.payload_converter().from_payload(input.headers["trace"], str)
        return [trace, await super().execute_activity(input)]


class Backwards(PayloadCodec):
    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [Payload(metadata={"encoding": b"backwards"}, data=p.SerializeToString()[::-1]) for p in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        found = []
        for payload in payloads:
            # The server writes payloads of its own: those of search attributes, for instance.
            known = payload.metadata.get("encoding") == b"backwards"
            found.append(Payload.FromString(payload.data[::-1]) if known else payload)
        return found


class Marking(DefaultPayloadConverter):
    """A converter that leaves its mark on one text."""

    def to_payloads(self, values: Sequence[Any]) -> list[Payload]:
        return super().to_payloads([f"{each}, converted" if each == "a text" else each for each in values])


@dataclass(frozen=True)
class WorkerOptions:
    plugins: Sequence[Any] = dataclasses.field(default_factory=lambda: [SagaPlugin()])
    interceptors: Sequence[Interceptor] = ()
    data_converter: DataConverter = DataConverter.default
    failure_exception_types: Sequence[type[BaseException]] = ()
    sandboxed: bool = False


WORKERS = {
    "plain": WorkerOptions(),
    "without plugins": WorkerOptions(plugins=[]),
    "plugins": WorkerOptions(plugins=[SimplePlugin("tracing", interceptors=[Tracing()]), SagaPlugin()]),
    "interceptors": WorkerOptions(interceptors=[Tracing()]),
    "codec": WorkerOptions(data_converter=dataclasses.replace(DataConverter.default, payload_codec=Backwards())),
    "encoded failures": WorkerOptions(
        data_converter=dataclasses.replace(
            DataConverter.default,
            payload_codec=Backwards(),
            failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
        )
    ),
    "converter": WorkerOptions(
        data_converter=dataclasses.replace(DataConverter.default, payload_converter_class=Marking)
    ),
    "failure types": WorkerOptions(failure_exception_types=[TypeError]),
    "sandboxed": WorkerOptions(sandboxed=True),
}


# --- the cases ----------------------------------------------------------------------------------


def call(name: str, covers: Sequence[str], activity: str, *args: Any, **options: Any) -> Case:
    """A call of one activity, whose error the workflow lets through."""
    outer = {key: options.pop(key) for key in ("is_long", "compares_times", "worker", "unsent") if key in options}
    return Case(name, covers, w.Call.run, [activity, list(args), Options(**options)], **outer)


def retried(name: str, covers: Sequence[str], activity: str, *args: Any, **options: Any) -> Case:
    """A call that is retried for longer than a test should take."""
    covers = ["retry policies", "attempt times", *covers]
    return call(name, covers, activity, *args, is_long=True, compares_times=True, **options)


def cancelled(name: str, covers: Sequence[str], kind: str, activity: str, *args: Any, **more: Any) -> Case:
    """An activity that the workflow cancels once it has begun."""
    retry_after = more.pop("retry_after", 60.0)
    run_args = [activity, list(args), kind, retry_after]
    return Case(name, [kind, *covers], w.CancelOnSignal.run, run_args, cancel_activity, **more)


ACTIVITY_CASES = [
    call("async activity", ["async activities"], "echo", {"a": [1, 2.5, None]}),
    call("sync activity", ["sync activities"], "add", 2, 3),
    Case("methods", ["activity methods", "async activities", "sync activities"], w.Methods.run),
    call("dynamic activity", ["async activities"], "whatever", 1, 2),
    Case("activities at a time", ["activities at a time"], w.Several.run),
    Case("one of three fails", ["activities at a time", "sync activities"], w.OneOfThreeFails.run),
    call("info", ["activity.info()"], "look", start_to_close=9, heartbeat=5, attempts=4, types=["A"], id="my-id"),
    call("info by default", ["activity.info()"], "look", schedule_to_close=12, default_policy=True, priority=2),
    Case("info with a run timeout", ["activity.info()", "workflow timeouts"], w.Call.run, ["look", [], Options()],
         options={"run_timeout": timedelta(seconds=40)}),
    call("arguments that do not fit", ["payload conversion"], "add", "a", "b", attempts=1),
    call("a result that is no json", ["payload conversion"], "no_json", "x", attempts=1),
    Case("an activity as the workflow sees it fail", ["failures with causes and details"], w.CallAndCatch.run,
         ["fail", ["typed", 9], Options(attempts=1)]),
    call("an untyped failure", ["failures with causes and details"], "fail", "untyped", 9, attempts=1),
    call("a failure with a cause", ["failures with causes and details"], "fail", "caused", 9, attempts=1),
    call("a failure in a thread", ["sync activities"], "fail_in_a_thread", "typed", 9, attempts=1),
    call("a non-retryable failure", ["retry policies"], "fail", "non_retryable", 9),
    call("a type that is not retried", ["non_retryable types"], "fail", "typed", 9, types=["Other", "NoLuck"]),
    call("a class that is not retried", ["non_retryable types"], "fail", "untyped", 9, types=["RuntimeError"]),
    call("a benign failure", ["failures with causes and details"], "fail", "benign", 9, attempts=1),
    call("a failure that cannot be encoded", ["failures with causes and details"], "fail", "no failure", 9, attempts=2),
    call("cancelled of its own accord", ["failures with causes and details"], "fail", "cancelled", 9, attempts=1),
    call("a second attempt", ["retry policies"], "fail", "typed", 1),
    call("a second attempt in a thread", ["retry policies", "sync activities"], "fail_in_a_thread", "typed", 1),
    retried("default policy", [], "fail", "typed", 4, default_policy=True),
    retried("maximum attempts", [], "fail", "typed", 9, first=10, coefficient=3, attempts=4),
    retried("maximum interval", [], "fail", "typed", 5, first=10, coefficient=4, longest=50),
    retried("constant interval", [], "fail", "typed", 3, first=30, coefficient=1),
    retried("next retry delay", ["next_retry_delay"], "fail", "later", 3, first=100, longest=100),
    retried("a coefficient below two", [], "fail", "typed", 4, first=10, coefficient=1.5),
    retried("next retry delay of one attempt alone", ["next_retry_delay"], "in_turn", ["typed", "later", "typed"],
            first=10),
    call("a second failure that is not retried", ["non_retryable types"], "in_turn", ["typed", "untyped"],
         types=["RuntimeError"]),
    retried("next retry delay beyond the cap", ["next_retry_delay"], "fail", "later", 2, first=1, longest=2),
    retried("no time for another attempt", ["schedule-to-close timeout"], "fail", "typed", 99, first=20,
            schedule_to_close=100),
    retried("next retry delay beyond the end", ["next_retry_delay", "schedule-to-close timeout"], "fail", "later", 9,
            first=1, schedule_to_close=5),
]  # fmt: skip

TIMEOUT_CASES = [
    call("start to close", ["start-to-close timeout"], "hang", 9, start_to_close=1, attempts=1),
    call("start to close and again", ["start-to-close timeout"], "hang", 1, start_to_close=1, compares_times=True),
    call("start to close after a failure", ["start-to-close timeout"], "fail_then_hang", start_to_close=1, attempts=2),
    call("start to close is not retried", ["start-to-close timeout", "non_retryable types"], "hang", 9,
         start_to_close=1, types=["TemporalTimeout:StartToClose"]),
    call("schedule to close while it runs", ["schedule-to-close timeout"], "hang", 9, schedule_to_close=1),
    call("schedule to close and retries", ["schedule-to-close timeout"], "fail_then_hang", schedule_to_close=2,
         start_to_close=30),
    call("no time after a start to close", ["start-to-close timeout", "schedule-to-close timeout"], "hang", 9,
         start_to_close=1, schedule_to_close=2, first=5),
    call("no time after a start to close of a second attempt", ["schedule-to-close timeout"], "fail_then_hang",
         start_to_close=1, schedule_to_close=3, first=0.5, coefficient=10),
    call("no time after two start to close", ["start-to-close timeout", "schedule-to-close timeout"], "hang", 9,
         start_to_close=1, schedule_to_close=4, first=0.5, coefficient=10),
    call("a failure, then a start to close", ["start-to-close timeout"], "in_turn", ["typed", "hang", "typed"],
         start_to_close=1, attempts=4),
    call("start to close with heartbeats", ["start-to-close timeout", "heartbeats"], "beat_and_hang", 1,
         start_to_close=1),
    call("a heartbeat that the worker holds back", ["heartbeat timeout", "heartbeats"], "beat_twice_and_hang",
         heartbeat=2),
    call("the last of many heartbeats", ["heartbeats"], "beat_often_and_fail", heartbeat=20),
    call("schedule to start", ["schedule-to-start timeout"], "echo", 1, schedule_to_start=1, queue="nobody"),
    call("schedule to start within schedule to close", ["schedule-to-start timeout"], "echo", 1, queue="nobody",
         schedule_to_close=1),
    call("heartbeat timeout", ["heartbeat timeout", "heartbeats"], "beat_and_hang", 9, heartbeat=1, attempts=1),
    call("heartbeat timeout and again", ["heartbeat timeout", "heartbeats"], "beat_and_hang", 1, heartbeat=1),
    call("heartbeat timeout is not retried", ["heartbeat timeout", "non_retryable types"], "beat_and_hang", 9,
         heartbeat=1, types=["TemporalTimeout:Heartbeat"]),
    call("heartbeat timeout without a heartbeat", ["heartbeat timeout"], "hang", 9, heartbeat=1, attempts=1),
    call("heartbeats keep it alive", ["heartbeats"], "keep_beating", 8, heartbeat=1.5),
    call("heartbeat details of an earlier attempt", ["heartbeats"], "beat_and_fail", heartbeat=20),
]  # fmt: skip

IN_HAND = ["cancellation in activities"]
CANCEL_CASES = [
    cancelled("try cancel", IN_HAND, "TRY_CANCEL", "until_cancelled", "raise"),
    cancelled("wait for the cancel", IN_HAND, "WAIT_CANCELLATION_COMPLETED", "until_cancelled", "raise"),
    cancelled("abandon", IN_HAND, "ABANDON", "until_cancelled", "raise", unsent=[("request_cancel_activity", "1")]),
    cancelled("wait and return", IN_HAND, "WAIT_CANCELLATION_COMPLETED", "until_cancelled", "return"),
    cancelled("wait and fail", IN_HAND, "WAIT_CANCELLATION_COMPLETED", "until_cancelled", "fail"),
    cancelled("wait for one that is between attempts", ["retry policies"], "WAIT_CANCELLATION_COMPLETED", "fail",
              "typed", 9),
    cancelled("try to cancel one that is between attempts", ["retry policies"], "TRY_CANCEL", "fail", "typed", 9),
    *(
        Case(f"cancelled at once, {kind}", [kind], w.CancelAtOnce.run, [kind],
             unsent=[("schedule_activity", "1", "echo", [1]), ("request_cancel_activity", "1")])
        for kind in ("TRY_CANCEL", "WAIT_CANCELLATION_COMPLETED", "ABANDON")
    ),
    Case("cancelled after its end", ["TRY_CANCEL"], w.CancelledAfterwards.run),
    Case("a workflow cancelled in an activity, try", ["TRY_CANCEL", "cancelling workflows"], w.WaitsInAnActivity.run,
         ["TRY_CANCEL"], cancel_in_an_activity),
    Case("a workflow cancelled in an activity, wait", ["WAIT_CANCELLATION_COMPLETED", "cancelling workflows"],
         w.WaitsInAnActivity.run, ["WAIT_CANCELLATION_COMPLETED"], cancel_in_an_activity),
    *(
        Case(f"a workflow cancelled that ends in a {end}", ["cancelling workflows"], w.CleansUp.run, [end],
             cancel_when_asleep)
        for end in ("return", "raise", "fail")
    ),
    Case("terminated", ["terminating workflows"], w.CleansUp.run, ["return"], terminate),
]  # fmt: skip

TIME_CASES = [
    Case("locks, semaphores, events and queues", ["waiting for conditions", "timers"], w.Locks.run),
    Case("waits that give up", ["waiting for conditions", "cancellation in activities"], w.GivesUp.run),
    Case("deadlines", ["timers", "TRY_CANCEL", "waiting for conditions"], w.Deadlines.run, python=(3, 11)),
    Case("a group, one of which fails", ["waiting for conditions", "timers"], w.Grouped.run, python=(3, 11)),
    Case("who is woken first", ["waiting for conditions", "timers"], w.InTurn.run, is_long=True),
    Case("one of three that are gathered fails", ["activities at a time", "timers"], w.OneFails.run, is_long=True),
    Case("a workflow cancelled twice", ["cancelling workflows"], w.CleansUp.run, ["return"], cancel_twice),
    Case("sleeps", ["timers", "workflow.now()"], w.Sleeps.run, [[60, 3600, 86400]], is_long=True),
    Case("no sleep at all", ["timers"], w.Sleeps.run, [[0, 0]]),
    Case("timers that are cancelled", ["timers"], w.Timers.run,
         unsent=[("start_timer", 7200.0), ("cancel_timer", 7200.0)]),
    Case("conditions", ["waiting for conditions", "timers"], w.Conditions.run),
    Case("random and now", ["workflow.now()", "workflow.random()", "workflow.uuid4()"], w.RandomAndNow.run),
]  # fmt: skip

MESSAGE_CASES = [
    Case("signals", ["signals"], w.Mailbox.run, client=post),
    Case("a dynamic signal", ["signals"], w.Mailbox.run, client=post_to_dynamic),
    Case("a signal whose handler takes time", ["signals"], w.Mailbox.run, client=post_later),
    Case("a signal whose handler fails", ["signals", "failing workflows"], w.Mailbox.run, client=break_signal),
    Case("signals before their handler", ["signals"], w.LateHandlers.run, client=post_early),
    Case("a signal that ends badly", ["signals", "failing workflows"], w.Mailbox.run, client=tell_to_fail),
    Case("queries", ["queries"], w.Mailbox.run, client=ask),
    Case("a query without a handler", ["queries"], w.CleansUp.run, ["return"], ask_what_is_not_there),
    Case("updates", ["updates"], w.Mailbox.run, client=update),
    Case("updates that are refused", ["updates", "validators"], w.Mailbox.run, client=update_refused),
    Case("updates that fail", ["updates"], w.Mailbox.run, client=update_fails),
    Case("an update twice", ["updates"], w.Mailbox.run, client=update_twice),
    Case("updates that wait for a lock", ["updates", "waiting for conditions"], w.Mailbox.run, client=updates_in_turn),
    Case("an update that waits for a signal", ["updates", "signals"], w.Mailbox.run, client=update_waits_for_a_signal),
    Case("an update that ends the workflow", ["updates"], w.Mailbox.run, client=update_that_ends_it),
    Case("messages in turn", ["updates", "signals", "queries"], w.Mailbox.run, client=messages_in_turn),
    Case("an update without a handler", ["updates"], w.CleansUp.run, ["return"], update_unheard_of),
    Case("an update that never ends", ["updates"], w.Mailbox.run, client=update_unfinished),
    Case("messages that come too late", ["updates", "cancelling workflows"], w.Mailbox.run, client=update_too_late),
]  # fmt: skip


def child(name: str, how: str, *, covers: Sequence[str] = (), **options: Any) -> Case:
    """A child workflow, whose error the parent describes."""
    return Case(name, ["child workflows", *covers], w.Parent.run, [how, options])


CHILD_CASES = [
    child("child returns", "quick"),
    child("child fails", "fail"),
    Case("child fails its parent", ["child workflows", "failing workflows"], w.Parent.run, ["fail", {"raise": True}]),
    child("child's activity fails", "activity"),
    child("grandchild's activity fails", "grandchild"),
    child("child's info", "info", memo={"from": "parent"}, covers=["workflow.info()", "memo"]),
    child("child is retried", "second attempt", attempts=3, covers=["workflow retries"]),
    child("child is retried in vain", "fail", attempts=3, covers=["workflow retries"]),
    child("child has labels", "labels", memo={"a": 1}, key="of a child", covers=["memo", "search attributes"]),
    child("child's execution times out", "wait", execution_timeout=3, attempts=5, covers=["workflow timeouts"]),
    child("child times out", "wait", run_timeout=1, covers=["workflow timeouts"]),
    *(
        Case(f"child cancelled, {kind}, {how}", ["cancellation of children"], w.CancelsChild.run, [how, kind])
        for kind, how in (
            ("WAIT_CANCELLATION_COMPLETED", "slow cancel"),
            ("WAIT_CANCELLATION_COMPLETED", "wait"),
            ("WAIT_CANCELLATION_COMPLETED", "stubborn"),
            ("WAIT_CANCELLATION_REQUESTED", "stubborn"),
            ("WAIT_CANCELLATION_REQUESTED", "stubborn for a while"),
            ("TRY_CANCEL", "stubborn"),
        )
    ),
    Case("child cancelled, ABANDON, nap", ["cancellation of children"], w.CancelsChild.run, ["nap", "ABANDON"],
         unsent=[("cancel_child", "fidelity-child-cancelled,-ABANDON,-nap/kid")]),
    Case("child cancelled at once", ["cancellation of children"], w.CancelsChildAtOnce.run, unsent=[
        ("start_child", "fidelity-child-cancelled-at-once/kid", "Kid", ["nap"]),
        ("cancel_child", "fidelity-child-cancelled-at-once/kid"),
    ]),
    *(
        Case(f"child left behind, {policy}, {how}", ["parent close policies"], w.LeavesChild.run, [policy, how],
             children=[f"fidelity-child-left-behind,-{policy},-{how.replace(' ', '-')}/kid"])
        for policy, how in (
            ("TERMINATE", "wait"),
            ("REQUEST_CANCEL", "wait"),
            ("REQUEST_CANCEL", "stubborn"),
            ("ABANDON", "nap"),
        )
    ),
    *(
        Case(f"child of a parent that fails, {policy}", ["parent close policies", "failing workflows"],
             w.LeavesChild.run, [policy, how, "fail"],
             children=[f"fidelity-child-of-a-parent-that-fails,-{policy}/kid"])
        for policy, how in (("TERMINATE", "wait"), ("REQUEST_CANCEL", "stubborn"))
    ),
    *(
        Case(f"cancelled while it waits for a child, {kind}, {how}", ["cancellation of children"], w.WaitsForChild.run,
             [how, kind, "ABANDON"], cancel_when_asleep,
             children=[f"fidelity-cancelled-while-it-waits-for-a-child,-{kind},-{how.replace(' ', '-')}/kid"])
        for kind, how in (("WAIT_CANCELLATION_COMPLETED", "slow cancel"), ("TRY_CANCEL", "cancelled in time"))
    ),
    *(
        Case(f"terminated while a child runs, {policy}", ["parent close policies", "terminating workflows"],
             w.WaitsForChild.run, [how, "TRY_CANCEL", policy], terminate_when_asleep,
             children=[f"fidelity-terminated-while-a-child-runs,-{policy}/kid"])
        for policy, how in (("TERMINATE", "wait"), ("REQUEST_CANCEL", "slow cancel"))
    ),
    *(
        Case(f"it ends as it does this: {what}", ["external workflows", "parent close policies"], w.SendsAndEnds.run,
             [what, how], children=[f"fidelity-it-ends-as-it-does-this:-{what.replace(' ', '-')}/kid"])
        for what, how in (
            ("signal child", "told in time"),
            ("signal external", "told in time"),
            ("cancel child", "cancelled in time"),
            ("cancel external", "cancelled in time"),
            ("start", "nap"),
        )
    ),
    Case("a child in place of one that runs", ["child workflows"], w.SameChildTwice.run,
         ["TERMINATE_IF_RUNNING", False]),
    Case("a child twice", ["child workflows"], w.SameChildTwice.run, ["ALLOW_DUPLICATE", False]),
    Case("a child once more", ["child workflows"], w.SameChildTwice.run, ["ALLOW_DUPLICATE", True]),
    Case("a child never again", ["child workflows"], w.SameChildTwice.run, ["REJECT_DUPLICATE", True]),
    Case("a child again only if it failed", ["child workflows"], w.SameChildTwice.run,
         ["ALLOW_DUPLICATE_FAILED_ONLY", True]),
    Case("workflows that talk", ["external workflows", "signals"], w.Talks.run),
    Case("workflows that talk to one run", ["external workflows", "signals"], w.TalksToOneRun.run),
    Case("signals that are sent at once", ["external workflows", "signals"], w.SendsAtOnce.run),
    Case("a workflow that cancels another", ["external workflows"], w.CancelsOther.run),
    child("child is retried until it times out", "wait", run_timeout=1, attempts=2, covers=["workflow timeouts"]),
    Case("workflows that talk to nobody", ["external workflows", "signals"], w.TalksToNobody.run),
    *(
        Case(f"child of a run that continues as new, {policy}", ["parent close policies", "continue-as-new"],
             w.LeavesChildToNextRun.run, [policy, True],
             children=[f"fidelity-child-of-a-run-that-continues-as-new,-{policy}/kid"])
        for policy in ("TERMINATE", "REQUEST_CANCEL", "ABANDON")
    ),
    Case("a cancel of a closed workflow", ["external workflows"], w.CancelsClosedOther.run),
    Case("a signal to a closed child", ["external workflows"], w.SignalsClosedChild.run),
]  # fmt: skip

# Long enough for a busy machine to begin.
LIFE = {"run_timeout": timedelta(seconds=4)}
RETRIES = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3)
RUN_CASES = [
    Case("continue as new", ["continue-as-new"], w.Counter.run, [1, []]),
    Case("continue as another", ["continue-as-new", "memo"], w.BecomesAnother.run),
    Case("execution timeout over several runs", ["continue-as-new", "workflow timeouts"], w.RunsOn.run,
         options={"execution_timeout": timedelta(seconds=9)}),
    Case("a patch in each of two runs", ["continue-as-new", "patches"], w.PatchedInARow.run, [[]]),
    Case("labels of a further run", ["continue-as-new", "memo", "search attributes"], w.Relabelled.run, [2], options={
        "search_attributes": TypedSearchAttributes([SearchAttributePair(w.KEY, "first")]),
        "memo": {"note": {"a": 1}, "kept": "yes"},
    }),
    Case("other labels for a further run", ["continue-as-new", "memo", "search attributes"], w.GivesLabels.run, [2, []],
         options={"search_attributes": TypedSearchAttributes([SearchAttributePair(w.KEY, "first")]),
                  "memo": {"note": {"a": 1}}}),
    Case("labels of a second attempt", ["workflow retries", "memo", "search attributes"], w.RetriedWithLabels.run,
         options={"search_attributes": TypedSearchAttributes([SearchAttributePair(w.KEY, "first")]),
                  "memo": {"note": {"a": 1}}, "retry_policy": RETRIES}),
    Case("a workflow's second attempt", ["workflow retries"], w.Retried.run, ["once"],
         options={"retry_policy": RETRIES}),
    Case("a workflow's last attempt", ["workflow retries"], w.Retried.run, ["always"],
         options={"retry_policy": RETRIES}),
    Case("a workflow that is not retried", ["workflow retries"], w.Retried.run, ["never"],
         options={"retry_policy": RETRIES}),
    Case("run timeout", ["workflow timeouts"], w.Sleeps.run, [[3600]], options=LIFE),
    Case("execution timeout", ["workflow timeouts"], w.Sleeps.run, [[3600]],
         options={"execution_timeout": LIFE["run_timeout"]}),
    *(
        Case(f"a workflow that fails: {how}", ["failing workflows", "failures with causes and details"],
             w.FailsWith.run, [how])
        for how in ("application", "caused", "context", "activity")
    ),
    Case("a bug fails the task", ["failing workflow tasks"], w.Bug.run, client=terminate_after_a_failed_task),
    Case("a bug that may fail the workflow", ["failing workflows"], w.Bug.run, worker="failure types"),
    Case("failure types of the workflow's own", ["failing workflows"], w.OwnFailureTypes.run),
    Case("patches", ["patches"], w.Patched.run),
    Case("labels", ["search attributes", "memo"], w.Labelled.run, options={
        "search_attributes": TypedSearchAttributes([SearchAttributePair(w.KEY, "first")]),
        "memo": {"note": {"a": 1}, "kept": "yes"},
    }),
    Case("workflow info with an execution timeout", ["workflow.info()"], w.Info.run, options={
        "execution_timeout": timedelta(seconds=60),
    }),
    Case("the size of a history", ["workflow.info()"], w.Grows.run),
    Case("activations of one workflow task", ["workflow.info()", "TRY_CANCEL"], w.TwoActivationsInOneTask.run, unsent=[
        ("schedule_activity", "1", "echo", ["never sent"]), ("start_timer", 60.0),
        ("request_cancel_activity", "1"), ("cancel_timer", 60.0),
        ("schedule_activity", "2", "echo", ["neither"]), ("request_cancel_activity", "2"),
    ]),
    Case("workflow info", ["workflow.info()", "memo"], w.Info.run, options={
        "memo": {"note": 1},
        "retry_policy": RETRIES,
        "run_timeout": timedelta(seconds=50),
        "execution_timeout": timedelta(seconds=60),
    }),
]  # fmt: skip

AROUND_CASES = [
    Case("interceptors", ["workflow interceptors", "activity interceptors"], w.Call.run, ["echo", ["x"], Options()],
         worker="interceptors"),
    Case("interceptors of signals", ["workflow interceptors", "signals"], w.LateHandlers.run, client=post_early,
         worker="interceptors"),
    Case("a plugin that brings interceptors", ["plugins"], w.Call.run, ["echo", ["x"], Options()], worker="plugins"),
    Case("without plugins", ["plugins"], w.Trip.run, ["fail"], worker="without plugins"),
    call("codec", ["data converters"], "echo", {"secret": 1}, worker="codec"),
    call("codec and failures", ["data converters"], "fail", "typed", 9, attempts=1, worker="codec"),
    call("codec and heartbeats", ["data converters", "heartbeats"], "beat_and_fail", heartbeat=20, worker="codec"),
    Case("codec and messages", ["data converters", "updates"], w.Mailbox.run, client=update, worker="codec"),
    Case("codec and children", ["data converters", "child workflows"], w.Parent.run, ["fail", {}], worker="codec"),
    Case("codec and memo", ["data converters", "memo"], w.Labelled.run, worker="codec", options={
        "memo": {"note": {"a": 1}, "kept": "yes"},
    }),
    Case("codec and a further run", ["data converters", "continue-as-new"], w.Counter.run, [1, []], worker="codec"),
    call("failures that are encoded too", ["data converters"], "fail", "caused", 9, attempts=1,
         worker="encoded failures"),
    Case("a converter of one's own", ["data converters"], w.Kid.run, ["a text"], worker="converter"),
    call("a converter's activity", ["data converters"], "echo", "a text", worker="converter"),
    Case("in the sandbox", ["the sandbox", "sagas"], w.Trip.run, ["fail"], worker="sandboxed"),
    Case("random in the sandbox", ["the sandbox", "workflow.random()"], w.RandomAndNow.run, worker="sandboxed"),
]  # fmt: skip

SAGA_CASES = [
    Case("a saga that ends well", ["sagas", "current_step()"], w.Trip.run, ["well"]),
    Case("a saga that fails", ["sagas", "current_step()"], w.Trip.run, ["fail"]),
    Case("a saga with a timeout", ["sagas", "start-to-close timeout"], w.Trip.run, ["timeout"]),
    Case("a saga with steps at a time", ["sagas", "activities at a time"], w.Trip.run, ["at a time"]),
    Case("a saga with children", ["sagas", "child workflows"], w.Trip.run, ["child"]),
    Case("a saga that is cancelled", ["sagas", "cancelling workflows"], w.Trip.run, ["wait"],
         client=cancel_in_a_step),
    Case("a saga with a savepoint", ["sagas"], w.Trip.run, ["savepoint"]),
    Case("a saga with a parked step", ["sagas", "updates"], w.Trip.run, ["parked"], client=decide),
]  # fmt: skip

CASES = [
    *ACTIVITY_CASES,
    *TIMEOUT_CASES,
    *CANCEL_CASES,
    *TIME_CASES,
    *MESSAGE_CASES,
    *CHILD_CASES,
    *RUN_CASES,
    *AROUND_CASES,
    *SAGA_CASES,
]
