"""The workflows: each does one thing that the simulator must do as the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from temporalio import workflow
from temporalio.common import (
    Priority,
    RawValue,
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError
from temporalio.workflow import ActivityCancellationType, ChildWorkflowCancellationType, ParentClosePolicy

from temporal_saga import Compensation, Saga

with workflow.unsafe.imports_passed_through():
    from .activities import add, echo, fail, fail_in_a_thread, hang, step_facts, undo, until_cancelled
    from .describe import chain, plain

SHORT: dict[str, Any] = {
    "start_to_close_timeout": timedelta(seconds=30),
    "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=50)),
}
BEATING: dict[str, Any] = {**SHORT, "heartbeat_timeout": timedelta(seconds=20)}
ONCE: dict[str, Any] = {**SHORT, "retry_policy": RetryPolicy(maximum_attempts=1)}
KEY = SearchAttributeKey.for_keyword("FidelityKey")
NUMBER = SearchAttributeKey.for_int("FidelityNumber")
newer: Any = asyncio  # for what Python 3.10 does not have


@dataclass
class Options:
    """The options of an activity, in seconds; 0 for none."""

    start_to_close: float = 0
    schedule_to_close: float = 0
    schedule_to_start: float = 0
    heartbeat: float = 0
    first: float = 0.05
    coefficient: float = 2
    longest: float = 0
    attempts: int = 0
    types: list[str] = field(default_factory=list)
    default_policy: bool = False
    queue: str = ""
    id: str = ""
    priority: int = 0

    def given(self) -> dict[str, Any]:
        def time(seconds: float) -> timedelta | None:
            return timedelta(seconds=seconds) if seconds else None

        policy = RetryPolicy(
            initial_interval=timedelta(seconds=self.first),
            backoff_coefficient=self.coefficient,
            maximum_interval=time(self.longest),
            maximum_attempts=self.attempts,
            non_retryable_error_types=self.types,
        )
        return {
            "start_to_close_timeout": time(self.start_to_close or (0 if self.schedule_to_close else 30)),
            "schedule_to_close_timeout": time(self.schedule_to_close),
            "schedule_to_start_timeout": time(self.schedule_to_start),
            "heartbeat_timeout": time(self.heartbeat),
            "retry_policy": None if self.default_policy else policy,
            "task_queue": self.queue or None,
            "activity_id": self.id or None,
            **({"priority": Priority(priority_key=self.priority)} if self.priority else {}),
        }


@workflow.defn
class Call:
    """Calls one activity, and lets its error through."""

    @workflow.run
    async def run(self, name: str, args: list[Any], options: Options) -> Any:
        return await workflow.execute_activity(name, args=args, **options.given())


@workflow.defn
class CallAndCatch:
    """Calls one activity, and returns its error as the workflow sees it."""

    @workflow.run
    async def run(self, name: str, args: list[Any], options: Options) -> Any:
        try:
            return await workflow.execute_activity(name, args=args, **options.given())
        except ActivityError as error:
            return chain(error)


@workflow.defn
class Methods:
    @workflow.run
    async def run(self) -> list[Any]:
        first = await workflow.execute_activity("greet", "Eve", **SHORT)
        second = await workflow.execute_activity("desk_of", "Eve", **SHORT)
        return [first, second]


@workflow.defn
class Several:
    """Three in a row, then three at a time."""

    @workflow.run
    async def run(self) -> list[Any]:
        row = [await workflow.execute_activity(add, args=[n, n], **SHORT) for n in range(3)]
        return [row, await asyncio.gather(*(workflow.execute_activity(echo, n, **SHORT) for n in range(3)))]


@workflow.defn
class OneOfThreeFails:
    @workflow.run
    async def run(self) -> list[Any]:
        results = await asyncio.gather(
            workflow.execute_activity(echo, 1, **SHORT),
            workflow.execute_activity(fail, args=["non_retryable", 9], **SHORT),
            workflow.execute_activity(fail_in_a_thread, args=["typed", 9], **ONCE),
            return_exceptions=True,
        )
        return [chain(each) if isinstance(each, BaseException) else each for each in results]


# --- cancelling activities ----------------------------------------------------------------------


@workflow.defn
class CancelOnSignal:
    """Cancels an activity when the client has seen it begin."""

    def __init__(self) -> None:
        self.told = False

    @workflow.signal
    def go(self) -> None:
        self.told = True

    @workflow.run
    async def run(self, name: str, args: list[Any], kind: str, retry_after: float) -> Any:
        handle = workflow.start_activity(
            name,
            args=args,
            cancellation_type=ActivityCancellationType[kind],
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=retry_after)),
        )
        await workflow.wait_condition(lambda: self.told)
        handle.cancel()
        try:
            return await handle
        except FailureError as error:
            return chain(error)
        except asyncio.CancelledError:
            return "CancelledError"


@workflow.defn
class CancelAtOnce:
    """The activity never leaves the worker."""

    @workflow.run
    async def run(self, kind: str) -> Any:
        handle = workflow.start_activity(echo, 1, cancellation_type=ActivityCancellationType[kind], **SHORT)
        await asyncio.sleep(0)
        handle.cancel()
        try:
            return await handle
        except FailureError as error:
            return chain(error)


@workflow.defn
class CancelledAfterwards:
    @workflow.run
    async def run(self) -> Any:
        handle = workflow.start_activity(echo, "done", **SHORT)
        result = await handle
        return [result, handle.cancel(), handle.done()]


# --- cancelling workflows -----------------------------------------------------------------------


@workflow.defn
class WaitsInAnActivity:
    @workflow.run
    async def run(self, kind: str) -> Any:
        return await workflow.execute_activity(
            until_cancelled,
            "raise",
            cancellation_type=ActivityCancellationType[kind],
            start_to_close_timeout=timedelta(seconds=30),
            heartbeat_timeout=timedelta(seconds=20),
        )


@workflow.defn
class CleansUp:
    """Takes note of the cancel, does something about it, and ends in its own way."""

    def __init__(self) -> None:
        self.stage = "new"

    @workflow.query
    def now(self) -> str:
        return self.stage

    @workflow.run
    async def run(self, end: Literal["return", "raise", "fail"]) -> Any:
        self.stage = "asleep"
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            found = await asyncio.shield(workflow.execute_activity(echo, "clean", **SHORT))
            if end == "raise":
                raise
            if end == "fail":
                raise ApplicationError("cancelled and failed", type="Both") from None
            return [found, workflow.cancellation_reason()]


# --- time ---------------------------------------------------------------------------------------


@workflow.defn
class Sleeps:
    @workflow.run
    async def run(self, seconds: list[float]) -> list[float]:
        start = workflow.now()
        times = []
        for each in seconds:
            await workflow.sleep(each)
            times.append(round((workflow.now() - start).total_seconds(), -1))
        return times


@workflow.defn
class Timers:
    """One that fires, one that is cancelled, and one cancelled before it leaves the worker."""

    @workflow.run
    async def run(self) -> list[str]:
        seen = []
        never = asyncio.create_task(asyncio.sleep(7200))
        await asyncio.sleep(0)
        never.cancel()
        long = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0.1)
        long.cancel()
        for task in (never, long):
            try:
                await task
            except asyncio.CancelledError:
                seen.append("cancelled")
        return seen


@workflow.defn
class Conditions:
    @workflow.run
    async def run(self) -> list[Any]:
        seen: list[Any] = []
        try:
            await workflow.wait_condition(lambda: False, timeout=0.1)
        except asyncio.TimeoutError:
            seen.append("timed out")
        try:
            await asyncio.wait_for(workflow.execute_activity(hang, 1, **SHORT), 0.5)
        except asyncio.TimeoutError:
            seen.append("gave up")
        seen.append(await asyncio.wait_for(workflow.execute_activity(echo, "quick", **SHORT), 3600))
        await workflow.wait_condition(lambda: True, timeout=50)
        return seen


@workflow.defn
class RandomAndNow:
    @workflow.run
    async def run(self) -> list[Any]:
        first = [workflow.now(), workflow.time(), workflow.random().random(), workflow.uuid4()]
        again = [workflow.now(), workflow.time(), workflow.random().random(), workflow.uuid4()]
        id: Any = first[3]
        return [
            [a == b for a, b in zip(first, again, strict=True)],
            id.version,
            0 <= workflow.random().random() < 1,
            len({workflow.random().getrandbits(64) for _ in range(20)}),
            str(workflow.now().tzinfo),
        ]


# --- messages -----------------------------------------------------------------------------------


@workflow.defn
class Mailbox:
    """Takes signals, queries and updates until it is told to end."""

    def __init__(self) -> None:
        self.letters: list[Any] = []
        self.end = ""
        self.lock = asyncio.Lock()

    @workflow.run
    async def run(self) -> list[Any]:
        await workflow.wait_condition(lambda: self.end != "")
        if self.end == "fail":
            raise ApplicationError("told to", type="Told", non_retryable=True)
        if self.end != "at once":
            await workflow.wait_condition(workflow.all_handlers_finished)
        return self.letters

    @workflow.signal
    def post(self, letter: Any) -> None:
        self.letters.append(letter)

    @workflow.signal(name="stop")
    async def finish(self, how: str) -> None:
        self.end = how

    @workflow.signal
    async def post_later(self, letter: str) -> None:
        await asyncio.sleep(0.1)
        self.letters.append(await workflow.execute_activity(echo, letter, **SHORT))

    @workflow.signal
    def broken(self) -> None:
        raise ApplicationError("a bad signal", type="BadSignal")

    @workflow.signal(dynamic=True)
    def other(self, name: str, args: Sequence[RawValue]) -> None:
        values = [workflow.payload_converter().from_payload(arg.payload, str) for arg in args]
        self.letters.append([name, values])

    @workflow.query
    def count(self) -> int:
        return len(self.letters)

    @workflow.query(name="letter")
    def one(self, number: int) -> Any:
        return self.letters[number]

    @workflow.query(dynamic=True)
    def any_query(self, name: str, args: Sequence[RawValue]) -> str:
        return f"{name} with {len(args)}"

    @workflow.update
    def put(self, letter: Any) -> int:
        self.letters.append(letter)
        return len(self.letters)

    @put.validator
    def check(self, letter: Any) -> None:
        if letter == "bad":
            raise ValueError("no bad letters")
        if letter == "worse":
            raise ApplicationError("no worse letters", "detail", type="Refused")

    @workflow.update
    async def put_by_activity(self, letter: str) -> str:
        answer: str = await workflow.execute_activity(echo, letter, **SHORT)
        await asyncio.sleep(0.05)
        self.letters.append(answer)
        return f"{answer}!"

    @workflow.update
    async def put_in_turn(self, letter: str) -> list[Any]:
        """One letter at a time, once the end has come: who comes later waits."""
        async with self.lock:
            await workflow.wait_condition(lambda: self.end != "")
            self.letters.append(letter)
        return list(self.letters)

    @workflow.update
    async def wait_for(self, letter: str) -> int:
        await workflow.wait_condition(lambda: letter in self.letters)
        return len(self.letters)

    @workflow.update
    def put_and_end(self, letter: str) -> str:
        self.letters.append(letter)
        self.end = "well"
        return "the end"

    @workflow.update
    async def refuse(self, how: str) -> None:
        if how == "activity":
            await workflow.execute_activity(fail, args=["typed", 9], **ONCE)
        raise ApplicationError("not this one", {"a": 1}, type="Not")

    @workflow.update(unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def never(self) -> None:
        self.letters.append("never begun")
        await workflow.wait_condition(lambda: False)


@workflow.defn
class LateHandlers:
    """Signals that come before their handler are kept for it."""

    @workflow.run
    async def run(self) -> list[Any]:
        letters: list[str] = []
        await asyncio.sleep(1)
        workflow.set_signal_handler("late", letters.append)
        workflow.set_query_handler("how_many", lambda: len(letters))
        await workflow.wait_condition(lambda: len(letters) == 2)
        return letters


@workflow.defn
class Locks:
    """What asyncio has to wait with, and who comes first."""

    @workflow.run
    async def run(self) -> list[str]:
        log: list[str] = []
        lock, two, go = asyncio.Lock(), asyncio.Semaphore(2), asyncio.Event()
        queue: asyncio.Queue[str] = asyncio.Queue(1)

        async def work(name: str, seconds: float) -> None:
            await go.wait()
            async with two:
                log.append(f"{name} is in")
                async with lock:
                    await asyncio.sleep(seconds)
                    log.append(f"{name} has the lock")
            await queue.put(name)

        async def collect() -> None:
            log.extend([f"got {await queue.get()}" for _ in range(3)])

        tasks = [asyncio.create_task(work(name, seconds)) for name, seconds in (("a", 0.3), ("b", 0.1), ("c", 0.2))]
        go.set()
        await asyncio.gather(*tasks, collect())
        return log


@workflow.defn
class GivesUp:
    """Waits for as long as it likes: for an activity, a condition, a shielded activity, and no time at all."""

    @workflow.run
    async def run(self) -> list[str]:
        log: list[str] = []

        async def within(seconds: float, what: str, awaitable: Any) -> None:
            try:
                log.append(f"{what}: {await asyncio.wait_for(awaitable, seconds)}")
            except asyncio.TimeoutError:
                log.append(f"{what}: too late")

        wait = workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
        ended = workflow.start_activity(until_cancelled, "return", **BEATING, cancellation_type=wait)
        await within(2, "an activity that gives way", ended)
        shielded = workflow.start_activity(echo, "an echo", **SHORT)
        await within(5, "in time", asyncio.shield(shielded))
        await within(0.1, "a condition", workflow.wait_condition(lambda: False))
        try:
            await workflow.wait_condition(lambda: False, timeout=0)
        except asyncio.TimeoutError:
            log.append("no time at all")
        await workflow.wait_condition(lambda: True, timeout=0)
        await asyncio.sleep(0)
        await workflow.sleep(0)
        return log


@workflow.defn
class Deadlines:
    """`asyncio.timeout`: one in another, around a lock that another task holds, moved, and none at all."""

    @workflow.run
    async def run(self) -> list[str]:
        log: list[str] = []
        lock = asyncio.Lock()

        async def hold() -> None:
            async with lock:
                await asyncio.sleep(3)
                log.append("the holder lets go")

        try:
            async with newer.timeout(30), newer.timeout(0.5):
                await workflow.execute_activity(until_cancelled, "raise", **BEATING)
        except asyncio.TimeoutError:
            log.append("an activity is too late")
        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        try:
            async with newer.timeout(0.5), lock:
                log.append("never")
        except asyncio.TimeoutError:
            log.append("the lock is too late")
        async with newer.timeout(0.2) as deadline:
            deadline.reschedule(asyncio.get_running_loop().time() + 30)
            async with lock:
                log.append("the lock in time")
        await holder
        async with newer.timeout(None):
            log.append(await workflow.execute_activity(echo, "no deadline", **SHORT))
        return log


@workflow.defn
class Grouped:
    """A group of tasks, one of which fails: the others are cancelled, each where it waits."""

    @workflow.run
    async def run(self) -> list[str]:
        ends, log = list[str](), list[str]()
        lock = asyncio.Lock()

        async def part(name: str, wait: Any) -> None:
            try:
                await wait
                ends.append(f"{name} ended")
            except asyncio.CancelledError:
                ends.append(f"{name} was cancelled")
                raise

        async def fails() -> None:
            await workflow.execute_activity(fail, args=["non_retryable", 9], **SHORT)

        await lock.acquire()
        try:
            async with newer.TaskGroup() as group:
                group.create_task(part("a timer", asyncio.sleep(3600)))
                group.create_task(part("a lock", lock.acquire()))
                group.create_task(part("a condition", workflow.wait_condition(lambda: False)))
                group.create_task(part("a failure", fails()))
        except Exception as error:
            several: Any = error
            log.extend(type(each).__name__ for each in several.exceptions)
        log.extend(sorted(ends))  # a group cancels in the order of a set
        lock.release()
        async with lock:
            log.append("the lock is free")
        return log


@workflow.defn
class InTurn:
    """Who is woken first: waiters of a condition, and of timers as they end."""

    @workflow.run
    async def run(self) -> list[Any]:
        log: list[Any] = []
        condition, box = asyncio.Condition(), list[str]()

        async def take(name: str) -> None:
            async with condition:
                await condition.wait_for(lambda: bool(box))
                log.append(f"{name} took {box.pop(0)}")

        takers = [asyncio.create_task(take(name)) for name in "abc"]
        await asyncio.sleep(0)
        for thing in ("one", "two", "three"):
            async with condition:
                box.append(thing)
                condition.notify_all()
            await asyncio.sleep(0)
        await asyncio.gather(*takers)

        async def later(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return seconds

        tasks = [asyncio.create_task(later(seconds)) for seconds in (1800, 600, 1200)]
        done, pending = await workflow.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.append([len(done), len(pending)])
        log.extend([await each for each in workflow.as_completed([*tasks, asyncio.create_task(later(60))])])
        return log


@workflow.defn
class OneFails:
    """Three activities, one of which fails: the others run on, and their ends are seen in order."""

    @workflow.run
    async def run(self) -> list[str]:
        log: list[str] = []

        async def part(name: str, seconds: float, activity: Any, *args: Any) -> None:
            await asyncio.sleep(seconds)
            try:
                await workflow.execute_activity(activity, args=args, **ONCE)
                log.append(f"{name} ended")
            except ActivityError as error:
                log.append(f"{name} failed")
                raise error.cause or error from None

        parts = part("a", 600, echo, 1), part("b", 1, fail, "typed", 9), part("c", 1200, echo, 2)
        try:
            await asyncio.gather(*parts)
        except ApplicationError as error:
            log.append(f"gathered {error.type}")
        await asyncio.sleep(2400)
        return log


# --- children and other workflows ---------------------------------------------------------------


@workflow.defn
class Kid:
    def __init__(self) -> None:
        self.told: str | None = None
        self.letters: list[str] = []

    @workflow.signal
    def tell(self, what: str) -> None:
        self.told = what
        self.letters.append(what)

    @workflow.run
    async def run(self, how: str) -> Any:
        if how == "fail":
            raise ApplicationError("a child's failure", [1, 2], type="Kid", non_retryable=True)
        if how == "activity":
            return await workflow.execute_activity(fail, args=["typed", 9], **ONCE)
        if how == "grandchild":
            return await workflow.execute_child_workflow(Kid.run, "activity", id=f"{workflow.info().workflow_id}/kid")
        if how == "second attempt":
            if workflow.info().attempt == 1:
                raise ApplicationError("once", type="Once")
            return [workflow.info().attempt, workflow.has_last_completion_result()]
        if how == "info":
            info = workflow.info()
            assert info.parent is not None
            assert info.root is not None
            return [info.workflow_id, info.parent.workflow_id, info.root.workflow_id, info.task_queue, workflow.memo()]
        if how == "told":
            await workflow.wait_condition(lambda: self.told is not None)
            return self.told
        if how == "three letters":
            await workflow.wait_condition(lambda: len(self.letters) == 3)
            return self.letters
        if how == "told in time":
            try:
                await workflow.wait_condition(lambda: self.told is not None, timeout=3)
            except asyncio.TimeoutError:
                raise ApplicationError("nobody told it", type="Untold", non_retryable=True) from None
        if how == "cancelled in time":
            await asyncio.sleep(3)
            raise ApplicationError("nobody cancelled it", type="Untold", non_retryable=True)
        if how == "labels":
            attributes = workflow.info().typed_search_attributes
            return [attributes.get(KEY), attributes.get(NUMBER), dict(workflow.memo())]
        if how == "slow cancel":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                await asyncio.shield(workflow.execute_activity(echo, "child cleans", **SHORT))
                raise
        if how == "stubborn":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            return "went on"
        if how == "stubborn for a while":
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(0.7)
            return "went on for a while"
        if how == "wait":
            await asyncio.sleep(3600)
        if how == "nap":
            await asyncio.sleep(0.7)
        return f"kid: {how}"


@workflow.defn
class Parent:
    @workflow.run
    async def run(self, how: str, options: dict[str, Any]) -> Any:
        given: dict[str, Any] = {"id": f"{workflow.info().workflow_id}/kid"}
        if "attempts" in options:
            given["retry_policy"] = RetryPolicy(
                initial_interval=timedelta(milliseconds=50), maximum_attempts=options["attempts"]
            )
        if "run_timeout" in options:
            given["run_timeout"] = timedelta(seconds=options["run_timeout"])
        if "execution_timeout" in options:
            given["execution_timeout"] = timedelta(seconds=options["execution_timeout"])
        if "memo" in options:
            given["memo"] = options["memo"]
        if "key" in options:
            given["search_attributes"] = TypedSearchAttributes([SearchAttributePair(KEY, options["key"])])
        try:
            return await workflow.execute_child_workflow(Kid.run, how, **given)
        except ChildWorkflowError as error:
            if options.get("raise"):
                raise
            return chain(error)


@workflow.defn
class CancelsChild:
    @workflow.run
    async def run(self, how: str, kind: str) -> Any:
        handle = await workflow.start_child_workflow(
            Kid.run,
            how,
            id=f"{workflow.info().workflow_id}/kid",
            cancellation_type=ChildWorkflowCancellationType[kind],
            parent_close_policy=ParentClosePolicy.TERMINATE,
        )
        handle.cancel()
        try:
            return await handle
        except FailureError as error:
            return chain(error)
        except asyncio.CancelledError:
            return "CancelledError"


@workflow.defn
class CancelsChildAtOnce:
    @workflow.run
    async def run(self) -> Any:
        task = asyncio.create_task(
            workflow.start_child_workflow(Kid.run, "nap", id=f"{workflow.info().workflow_id}/kid")
        )
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "CancelledError"
        except FailureError as error:
            return chain(error)
        return "it started"


@workflow.defn
class LeavesChild:
    @workflow.run
    async def run(self, policy: str, how: str, end: str = "return") -> str:
        await workflow.start_child_workflow(
            Kid.run, how, id=f"{workflow.info().workflow_id}/kid", parent_close_policy=ParentClosePolicy[policy]
        )
        if end == "fail":
            raise ApplicationError("it leaves a child behind", type="Leaves")
        return "left it"


@workflow.defn
class WaitsForChild:
    """Waits for a child until a client does something."""

    def __init__(self) -> None:
        self.stage = "new"

    @workflow.query
    def now(self) -> str:
        return self.stage

    @workflow.run
    async def run(self, how: str, kind: str, policy: str) -> Any:
        child = await workflow.start_child_workflow(
            Kid.run,
            how,
            id=f"{workflow.info().workflow_id}/kid",
            cancellation_type=ChildWorkflowCancellationType[kind],
            parent_close_policy=ParentClosePolicy[policy],
        )
        self.stage = "asleep"
        return await child


@workflow.defn
class SameChildTwice:
    @workflow.run
    async def run(self, policy: str, wait: bool) -> Any:
        id = f"{workflow.info().workflow_id}/kid"
        first = await workflow.start_child_workflow(Kid.run, "quick" if wait else "told", id=id)
        if wait:
            await first
        try:
            return await workflow.execute_child_workflow(
                Kid.run, "again", id=id, id_reuse_policy=WorkflowIDReusePolicy[policy]
            )
        except FailureError as error:
            return chain(error)


@workflow.defn
class Talks:
    """Signals and cancels workflows: its child, by handle and by id, and one that does not exist."""

    @workflow.run
    async def run(self) -> list[Any]:
        seen: list[Any] = []
        kid = await workflow.start_child_workflow(Kid.run, "told", id=f"{workflow.info().workflow_id}/kid")
        await kid.signal(Kid.tell, "by handle")
        seen.append(await kid)
        other = await workflow.start_child_workflow(Kid.run, "told", id=f"{workflow.info().workflow_id}/other")
        await workflow.get_external_workflow_handle(other.id).signal("tell", "by id")
        seen.append(await other)
        missing = workflow.get_external_workflow_handle(f"{workflow.info().workflow_id}/missing")
        for send in (missing.signal("tell", "no one"), missing.cancel()):
            try:
                await send
            except FailureError as error:
                seen.append(chain(error))
        return seen


@workflow.defn
class TalksToOneRun:
    """Signals a run that has ended, by its id, and the one with the same workflow id that is open."""

    @workflow.run
    async def run(self) -> list[Any]:
        id = f"{workflow.info().workflow_id}/kid"
        first = await workflow.start_child_workflow(Kid.run, "quick", id=id)
        old = first.first_execution_run_id
        await first
        second = await workflow.start_child_workflow(Kid.run, "told", id=id)
        seen: list[Any] = []
        for run_id in (old, second.first_execution_run_id):
            try:
                await workflow.get_external_workflow_handle(id, run_id=run_id).signal("tell", "by a run's id")
            except FailureError as error:
                seen.append(chain(error))
        return [*seen, await second]


@workflow.defn
class SendsAtOnce:
    """Sends three signals without waiting for any: they arrive in order."""

    @workflow.run
    async def run(self) -> Any:
        kid = await workflow.start_child_workflow(Kid.run, "three letters", id=f"{workflow.info().workflow_id}/kid")
        other = workflow.get_external_workflow_handle(kid.id)
        await asyncio.gather(kid.signal("tell", "one"), other.signal("tell", "two"), kid.signal("tell", "three"))
        return await kid


@workflow.defn
class SendsAndEnds:
    """Sends something in the workflow task in which it ends."""

    @workflow.run
    async def run(self, what: str, how: str) -> str:
        id = f"{workflow.info().workflow_id}/kid"
        starts = workflow.start_child_workflow(Kid.run, how, id=id, parent_close_policy=ParentClosePolicy.ABANDON)
        if what == "start":
            sends: Any = starts
        else:
            kid, other = await starts, workflow.get_external_workflow_handle(id)
            calls: dict[str, Any] = {
                "cancel child": kid.cancel,
                "cancel external": other.cancel,
                "signal child": lambda: kid.signal("tell", "the last word"),
                "signal external": lambda: other.signal("tell", "the last word"),
            }
            sends = calls[what]()
        self.sending = asyncio.create_task(sends) if asyncio.iscoroutine(sends) else None
        await asyncio.sleep(0)
        return what


@workflow.defn
class CancelsOther:
    @workflow.run
    async def run(self) -> Any:
        kid = await workflow.start_child_workflow(Kid.run, "wait", id=f"{workflow.info().workflow_id}/kid")
        await workflow.get_external_workflow_handle(kid.id).cancel()
        try:
            return await kid
        except ChildWorkflowError as error:
            return chain(error)


@workflow.defn
class TalksToNobody:
    @workflow.run
    async def run(self) -> list[Any]:
        nobody = workflow.get_external_workflow_handle(f"{workflow.info().workflow_id}/nobody")
        seen: list[Any] = []
        calls: list[Any] = [lambda: nobody.signal("tell", "x"), nobody.cancel]
        for call in calls:
            try:
                await call()
            except FailureError as error:
                seen.append(chain(error))
        return seen


@workflow.defn
class LeavesChildToNextRun:
    """Continues as new while a child runs."""

    @workflow.run
    async def run(self, policy: str, first: bool) -> str:
        if first:
            await workflow.start_child_workflow(
                Kid.run, "nap", id=f"{workflow.info().workflow_id}/kid", parent_close_policy=ParentClosePolicy[policy]
            )
            workflow.continue_as_new(args=[policy, False])
        await asyncio.sleep(2)
        return "the next run"


@workflow.defn
class CancelsClosedOther:
    @workflow.run
    async def run(self) -> Any:
        kid = await workflow.start_child_workflow(Kid.run, "quick", id=f"{workflow.info().workflow_id}/kid")
        await kid
        await workflow.get_external_workflow_handle(kid.id).cancel()
        try:
            await workflow.get_external_workflow_handle(f"{kid.id}/nobody").cancel()
        except FailureError as error:
            return chain(error)


@workflow.defn
class SignalsClosedChild:
    @workflow.run
    async def run(self) -> Any:
        kid = await workflow.start_child_workflow(Kid.run, "quick", id=f"{workflow.info().workflow_id}/kid")
        await kid
        try:
            await kid.signal(Kid.tell, "too late")
        except FailureError as error:
            return chain(error)


# --- further runs -------------------------------------------------------------------------------


@workflow.defn
class Counter:
    @workflow.run
    async def run(self, n: int, seen: list[Any]) -> list[Any]:
        info = workflow.info()
        await workflow.execute_activity(echo, n, **SHORT)
        facts = [n, info.attempt, info.continued_run_id is not None, info.run_id == info.first_execution_run_id]
        if n < 3:
            workflow.continue_as_new(args=[n + 1, [*seen, facts]])
        return [*seen, facts]


@workflow.defn
class BecomesAnother:
    @workflow.run
    async def run(self) -> Any:
        workflow.continue_as_new(
            args=["info of the next"], workflow=NextOne.run, memo={"from": "before"}, run_timeout=timedelta(seconds=77)
        )


@workflow.defn
class RunsOn:
    """Continues as new for ever, in less time than a run may take."""

    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(5)
        workflow.continue_as_new()


@workflow.defn
class PatchedInARow:
    @workflow.run
    async def run(self, seen: list[bool]) -> list[bool]:
        seen = [*seen, workflow.patched("new-way"), workflow.patched("new-way")]
        if len(seen) < 4:
            workflow.continue_as_new(seen)
        return seen


@workflow.defn
class Relabelled:
    """Changes its labels, and continues as new without a word of them."""

    @workflow.run
    async def run(self, runs: int) -> list[Any]:
        attributes = workflow.info().typed_search_attributes
        seen = [attributes.get(KEY), attributes.get(NUMBER), dict(sorted(workflow.memo().items()))]
        workflow.upsert_search_attributes([NUMBER.value_set(runs)])
        workflow.upsert_memo({"runs": runs, "kept": None})
        if runs:
            workflow.continue_as_new(runs - 1)
        return seen


@workflow.defn
class GivesLabels:
    """Changes its labels, and continues as new with others; the third run is given none."""

    @workflow.run
    async def run(self, runs: int, seen: list[Any]) -> list[Any]:
        attributes = workflow.info().typed_search_attributes
        seen = [*seen, [attributes.get(KEY), attributes.get(NUMBER), dict(sorted(workflow.memo().items()))]]
        workflow.upsert_search_attributes([NUMBER.value_set(10 + runs)])
        workflow.upsert_memo({"upserted": runs})
        if runs == 2:
            given = TypedSearchAttributes([SearchAttributePair(KEY, "given")])
            workflow.continue_as_new(args=[1, seen], memo={"given": runs}, search_attributes=given)
        if runs == 1:
            workflow.continue_as_new(args=[0, seen])
        return seen


@workflow.defn
class RetriedWithLabels:
    """Changes its labels, and fails: the next attempt begins with those of the start."""

    @workflow.run
    async def run(self) -> list[Any]:
        attributes = workflow.info().typed_search_attributes
        seen = [attributes.get(KEY), attributes.get(NUMBER), dict(sorted(workflow.memo().items()))]
        if workflow.info().attempt == 1:
            workflow.upsert_search_attributes([NUMBER.value_set(1)])
            workflow.upsert_memo({"upserted": 1})
            raise ApplicationError("once", type="Once")
        return seen


@workflow.defn
class NextOne:
    @workflow.run
    async def run(self, what: str) -> list[Any]:
        info = workflow.info()
        return [what, info.workflow_type, workflow.memo(), plain(info.run_timeout)]


@workflow.defn
class Retried:
    @workflow.run
    async def run(self, how: str) -> Any:
        info = workflow.info()
        if info.attempt == 1:
            first_error = ApplicationError("the first time", type="First", non_retryable=how == "never")
            raise first_error
        error = workflow.get_last_failure()
        if how == "always":
            raise ApplicationError(f"attempt {info.attempt}", type="Always")
        return [info.attempt, chain(error), workflow.has_last_completion_result()]


@workflow.defn
class FailsWith:
    @workflow.run
    async def run(self, how: str) -> None:
        if how == "application":
            raise ApplicationError("no", 1, {"two": 2}, type="No", non_retryable=True)
        if how == "caused":
            try:
                await workflow.execute_activity(fail, args=["caused", 9], **ONCE)
            except ActivityError as error:
                raise ApplicationError("wrapped", type="Wrapper") from error
        if how == "context":
            try:
                await workflow.execute_activity(fail, args=["typed", 9], **ONCE)
            except ActivityError:
                raise ApplicationError("in the handler", type="Context")  # noqa: B904
        if how == "key error":
            raise KeyError("missing")
        await workflow.execute_activity(fail, args=["typed", 9], **ONCE)


# --- patches, labels, info ----------------------------------------------------------------------


@workflow.defn
class Patched:
    @workflow.run
    async def run(self) -> list[Any]:
        first = workflow.patched("new-way")
        if first:
            await workflow.execute_activity(echo, "new", **SHORT)
        workflow.deprecate_patch("old-way")
        return [first, workflow.patched("new-way"), workflow.patched("later")]


@workflow.defn
class Labelled:
    @workflow.run
    async def run(self) -> list[Any]:
        def seen() -> list[Any]:
            attributes = workflow.info().typed_search_attributes
            return [attributes.get(KEY), attributes.get(NUMBER), dict(sorted(workflow.memo().items()))]

        states = [seen()]
        workflow.upsert_search_attributes([KEY.value_set("second"), NUMBER.value_set(2)])
        workflow.upsert_memo({"more": [1, 2], "note": None})
        states.append(seen())
        await asyncio.sleep(0.05)
        workflow.upsert_search_attributes([NUMBER.value_unset()])
        states.append(seen())
        return states


@workflow.defn
class Grows:
    """Looks at its history, whose bytes no two servers count alike."""

    @workflow.run
    async def run(self) -> list[Any]:
        info, sizes = workflow.info(), [workflow.info().get_current_history_size()]
        await workflow.execute_activity(echo, "x" * 20_000, **SHORT)
        sizes.append(info.get_current_history_size())
        return [info.get_current_history_length(), sizes[0] > 0, 40_000 < sizes[1] < 50_000]


@workflow.defn
class TwoActivationsInOneTask:
    """Core answers a cancel of what it has not sent in the same workflow task."""

    @workflow.run
    async def run(self) -> list[int]:
        lengths = [workflow.info().get_current_history_length()]
        first = workflow.start_activity(echo, "never sent", **SHORT)
        timer = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        first.cancel(), timer.cancel()
        await asyncio.wait([first, timer])
        lengths.append(workflow.info().get_current_history_length())
        second = workflow.start_activity(echo, "neither", **SHORT)
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        lengths.append(workflow.info().get_current_history_length())
        await workflow.execute_activity(echo, "sent", **SHORT)
        return [*lengths, workflow.info().get_current_history_length()]


@workflow.defn
class Info:
    @workflow.run
    async def run(self) -> list[Any]:
        info = workflow.info()
        return [
            info.attempt,
            info.namespace,
            info.workflow_id,
            info.workflow_type,
            info.task_queue,
            plain([info.execution_timeout, info.run_timeout]),
            [info.parent, info.continued_run_id, info.cron_schedule, dict(info.headers)],
            info.run_id == info.first_execution_run_id == info.original_execution_run_id
            if hasattr(info, "original_execution_run_id")
            else True,
            workflow.memo(),
            workflow.in_workflow(),
            info.retry_policy.maximum_attempts if info.retry_policy else None,
            info.root is None,
        ]


# --- sagas --------------------------------------------------------------------------------------


@workflow.defn
class Trip:
    """A saga: steps with compensations, a push, and an end."""

    @workflow.run
    async def run(self, end: str) -> Any:
        options: dict[str, Any]
        async with Saga() as saga:
            facts = [
                await saga.execute_activity(step_facts, "one", compensation=undo, **SHORT),
                await saga.execute_activity(step_facts, "two", compensation=step_facts, step="second", **SHORT),
            ]
            saga.add_compensation(step_facts, "pushed", step="pushed", **SHORT)
            if end == "fail":
                await saga.execute_activity(fail, args=["non_retryable", 9], **SHORT)
            if end == "parked":
                options = {**SHORT, "args": ["non_retryable", 9], "compensation": Compensation(undo, "parked")}
                await saga.execute_activity(fail, on_step_failure="park", **options)
            if end == "timeout":
                once = timedelta(seconds=1)
                options = {**ONCE, "start_to_close_timeout": once}
                await saga.execute_activity(hang, 1, compensation=undo, **options)
            if end == "at a time":
                await asyncio.gather(
                    saga.execute_activity(until_cancelled, "raise", compensation=undo, **BEATING),
                    saga.execute_activity(fail, args=["non_retryable", 9], **SHORT),
                )
            if end == "child":
                facts.append(await saga.execute_child_workflow(Kid.run, "quick", compensation=Kid.run))
                await saga.execute_child_workflow(Kid.run, "fail", compensation=undo)
            if end == "wait":
                await saga.execute_activity(until_cancelled, "raise", compensation=undo, **BEATING)
            if end == "savepoint":
                with suppress(ApplicationError):
                    async with saga.savepoint() as inner:
                        await inner.execute_activity(step_facts, "inner", compensation=undo, step="inner", **SHORT)
                        raise ApplicationError("only the inner")
        return facts


@workflow.defn
class Bug:
    """A bug fails the workflow task, and not the workflow."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(echo, "before the bug", **SHORT)
        raise TypeError("a bug")


@workflow.defn(failure_exception_types=[KeyError])
class OwnFailureTypes:
    @workflow.run
    async def run(self) -> None:
        raise KeyError("its own")


WORKFLOWS = [
    Call,
    CallAndCatch,
    CancelsClosedOther,
    Deadlines,
    GivesLabels,
    GivesUp,
    Grouped,
    InTurn,
    LeavesChildToNextRun,
    Locks,
    OneFails,
    PatchedInARow,
    RunsOn,
    TalksToNobody,
    Grows,
    Relabelled,
    RetriedWithLabels,
    SendsAndEnds,
    SendsAtOnce,
    TalksToOneRun,
    TwoActivationsInOneTask,
    Methods,
    Several,
    OneOfThreeFails,
    CancelOnSignal,
    CancelAtOnce,
    CancelledAfterwards,
    WaitsForChild,
    WaitsInAnActivity,
    CleansUp,
    Sleeps,
    Timers,
    Conditions,
    RandomAndNow,
    Mailbox,
    LateHandlers,
    Kid,
    Parent,
    CancelsChild,
    CancelsChildAtOnce,
    LeavesChild,
    SameChildTwice,
    Talks,
    CancelsOther,
    SignalsClosedChild,
    Counter,
    BecomesAnother,
    NextOne,
    Retried,
    FailsWith,
    Patched,
    Labelled,
    Info,
    Trip,
    Bug,
    OwnFailureTypes,
]
