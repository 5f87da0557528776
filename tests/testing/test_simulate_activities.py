"""The simulator runs activities as the server and a worker do: attempts, timeouts, heartbeats, cancellation."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pytest
from temporalio import activity, workflow
from temporalio.client import AsyncActivityCancelledError, WorkflowFailureError
from temporalio.common import RawValue, RetryPolicy
from temporalio.converter import DataConverter
from temporalio.exceptions import ActivityError, ApplicationError, RetryState, TimeoutError, TimeoutType
from temporalio.exceptions import CancelledError as TemporalCancelledError
from temporalio.service import RPCError
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput, Interceptor
from temporalio.workflow import ActivityCancellationType

from temporal_saga.testing import (
    Simulation,
    SimulationError,
    UnsupportedError,
    cancel,
    fails_after,
    simulate,
    worker_lost,
)
from temporal_saga.testing.simulator import told_of

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


@workflow.defn
class Call:
    """Calls one activity, with the options that a test gives."""

    @workflow.run
    async def run(self, name: str, args: list[Any]) -> Any:
        return await workflow.execute_activity(name, args=args, **OPTIONS)


OPTIONS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _options() -> Iterator[None]:
    OPTIONS.clear()
    OPTIONS.update(start_to_close_timeout=10 * SECOND)
    yield
    OPTIONS.clear()


def call(function: Any, *args: Any, faults: Any = (), client: Any = None, **options: Any) -> Simulation[Any]:
    OPTIONS.update(options)
    name = activity._Definition.must_from_callable(function).name or ""
    return simulate(Call.run, name, list(args), activities=[function], faults=faults, client=client)


def cause(simulation: Simulation[Any]) -> Any:
    """Return what the workflow's activity failed with."""
    assert simulation.status == "failed", simulation.trace
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    error = failure.value.cause
    assert isinstance(error, ActivityError)
    return error.cause


def starts(simulation: Simulation[Any]) -> list[float]:
    return [attempt.started.total_seconds() for attempt in simulation.calls[0].attempts]


# --- functions ----------------------------------------------------------------------------------


class Desk:
    """Activities as methods."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @activity.defn
    async def asynchronous(self, when: datetime, wait: float) -> datetime:
        self.seen.append((when, wait))
        await asyncio.sleep(wait)
        return when

    @activity.defn(name="renamed")
    def synchronous(self, text: str) -> list[str]:
        self.seen.append(text)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        assert asyncio.run(asyncio.sleep(0, "a loop of its own")) == "a loop of its own"
        return [text]


@workflow.defn
class Both:
    @workflow.run
    async def run(self, when: datetime) -> list[str]:
        texts = await workflow.execute_activity_method(Desk.synchronous, "x", start_to_close_timeout=SECOND)
        same = await workflow.execute_activity_method(
            Desk.asynchronous, args=[when, 2.5], start_to_close_timeout=MINUTE
        )
        return [*texts, str(same == when)]


def test_async_and_sync_methods_run_with_their_types() -> None:
    desk, when = Desk(), datetime(2020, 2, 20, tzinfo=timezone.utc)
    simulation = simulate(Both.run, when, activities=[desk.synchronous, desk.asynchronous])
    assert simulation.result() == ["x", "True"]
    assert desk.seen == ["x", (when, 2.5)]
    assert simulation.duration == timedelta(seconds=2.5)


def test_a_dynamic_activity_gets_what_no_other_takes() -> None:
    @activity.defn(dynamic=True)
    async def anything(args: Sequence[RawValue]) -> str:
        converter = activity.payload_converter()
        return f"{activity.info().activity_type} {converter.from_payload(args[0].payload, str)}"

    simulation = simulate(Call.run, "whatever", ["x"], activities=[anything])
    assert simulation.result() == "whatever x"


def test_info_tells_what_it_tells_on_a_worker() -> None:
    infos: list[activity.Info] = []

    @activity.defn
    async def look() -> None:
        infos.append(activity.info())
        if activity.info().attempt < 3:
            raise ApplicationError("again")

    policy = RetryPolicy(initial_interval=2 * SECOND)
    simulation = call(look, retry_policy=policy, schedule_to_close_timeout=MINUTE, heartbeat_timeout=5 * SECOND)
    assert simulation.status == "completed"
    assert [info.attempt for info in infos] == [1, 2, 3]
    start = datetime(2030, 1, 1, tzinfo=timezone.utc)
    third = infos[2]
    assert third.scheduled_time == start
    assert third.current_attempt_scheduled_time == third.started_time == start + 6 * SECOND
    assert (third.workflow_id, third.workflow_type, third.task_queue) == ("workflow", "Call", "task-queue")
    assert third.start_to_close_timeout == 10 * SECOND
    assert third.schedule_to_close_timeout == MINUTE
    assert third.heartbeat_timeout == 5 * SECOND
    assert third.retry_policy is not None
    assert third.retry_policy.initial_interval == 2 * SECOND
    assert infos[0].task_token != third.task_token


def test_sleep_is_virtual_and_blocking_takes_no_time() -> None:
    @activity.defn
    async def long() -> str:
        await asyncio.sleep(24 * 3600)
        return await asyncio.to_thread(lambda: "in a thread")

    simulation = call(long, start_to_close_timeout=timedelta(days=2))
    assert simulation.result() == "in a thread"
    assert simulation.duration == timedelta(days=1)


def test_a_timeout_inside_an_activity_is_virtual() -> None:
    @activity.defn
    async def impatient() -> str:
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 3)
        except asyncio.TimeoutError:
            return "gave up"
        return "never"

    simulation = call(impatient)
    assert simulation.result() == "gave up"
    assert simulation.duration == 3 * SECOND


class Level(IntEnum):
    ONE = 1


@activity.defn
async def pick(number: int) -> Any:
    return LOOK_ALIKE[number]


LOOK_ALIKE: list[Any] = [1, True, 1.0, "1", Level.ONE, 0, False, 0.0, -0.0, "", None, "x" * 1_000, [1]]


@pytest.mark.parametrize("order", [1, -1])
def test_results_that_look_alike_stay_apart(order: int) -> None:
    """Payloads of plain results are kept for further simulations: each is the one that the SDK's converter makes."""
    for number in list(range(len(LOOK_ALIKE)))[::order]:
        (payload,) = DataConverter.default.payload_converter.to_payloads([LOOK_ALIKE[number]])
        (sent,) = told_of(call(pick, number)).ends.values()
        assert sent == payload.SerializeToString(deterministic=True)


# --- retries ------------------------------------------------------------------------------------


def failing(times: int, error: Any = None) -> Any:
    @activity.defn
    async def fail() -> int:
        attempt = activity.info().attempt
        if attempt <= times:
            raise error or ApplicationError(f"attempt {attempt}", type="Busy")
        return attempt

    return fail


def test_the_default_policy_doubles_from_a_second_and_never_ends() -> None:
    simulation = call(failing(9))
    assert simulation.result() == 10
    assert starts(simulation) == [0, 1, 3, 7, 15, 31, 63, 127, 227, 327]


def test_a_policy_of_ones_own() -> None:
    policy = RetryPolicy(
        initial_interval=timedelta(seconds=3), backoff_coefficient=1.5, maximum_interval=timedelta(seconds=5)
    )
    simulation = call(failing(4), retry_policy=policy)
    assert starts(simulation) == [0, 3, 7.5, 12.5, 17.5]


def test_maximum_attempts() -> None:
    simulation = call(failing(9), retry_policy=RetryPolicy(maximum_attempts=2))
    assert cause(simulation).message == "attempt 2"
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    error: Any = failure.value.cause
    assert error.retry_state is RetryState.MAXIMUM_ATTEMPTS_REACHED
    assert [attempt.outcome for attempt in simulation.calls[0].attempts] == [
        "failed: Busy: attempt 1",
        "failed: Busy: attempt 2",
    ]


@pytest.mark.parametrize(
    ("error", "policy"),
    [
        (ApplicationError("no", type="Refused", non_retryable=True), None),
        (ApplicationError("no", type="Refused"), RetryPolicy(non_retryable_error_types=["Refused"])),
        (ValueError("no"), RetryPolicy(non_retryable_error_types=["ValueError"])),
    ],
)
def test_what_is_not_retryable(error: Exception, policy: RetryPolicy | None) -> None:
    simulation = call(failing(9, error), retry_policy=policy)
    assert cause(simulation).message == "no"
    assert len(simulation.calls[0].attempts) == 1


def test_next_retry_delay_replaces_the_interval_and_its_cap() -> None:
    error = ApplicationError("later", next_retry_delay=timedelta(minutes=5))
    simulation = call(failing(2, error), retry_policy=RetryPolicy(maximum_interval=SECOND))
    assert starts(simulation) == [0, 300, 600]


def test_no_time_for_another_attempt_ends_it_now_with_the_last_failure() -> None:
    simulation = call(failing(9), schedule_to_close_timeout=10 * SECOND)
    # 0, 1, 3, 7, and the next would be at 15.
    assert starts(simulation) == [0, 1, 3, 7]
    assert simulation.duration == timedelta(seconds=7)
    assert cause(simulation).message == "attempt 4"
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    error: Any = failure.value.cause
    assert error.retry_state is RetryState.TIMEOUT


# --- timeouts -----------------------------------------------------------------------------------


def sleeping(duration: float, first_only: bool = False) -> Any:
    @activity.defn
    async def sleep() -> str:
        if not first_only or activity.info().attempt == 1:
            await asyncio.sleep(duration)
        return "slept"

    return sleep


def test_start_to_close_is_per_attempt_and_the_function_goes_on() -> None:
    simulation = call(sleeping(12, first_only=True))
    assert simulation.result() == "slept"
    first, second = simulation.calls[0].attempts
    assert (first.started, first.ended, first.outcome) == (timedelta(0), 10 * SECOND, "StartToClose timeout")
    assert second.started == 11 * SECOND
    assert first.ran, "the zombie ran to its end"
    assert first.ran_order is not None
    assert second.ran_order is not None
    assert first.ran_order > second.ran_order


def test_a_zombie_is_cancelled_by_its_worker_five_seconds_after_its_timeout() -> None:
    seen: list[Any] = []

    @activity.defn
    async def zombie() -> None:
        if activity.info().attempt == 1:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                seen.append(activity.cancellation_details())
                raise

    simulation = call(zombie)
    assert simulation.status == "completed"
    assert seen[0].timed_out


@pytest.mark.parametrize("kind", [TimeoutType.START_TO_CLOSE, TimeoutType.HEARTBEAT])
def test_timeouts_can_be_made_non_retryable(kind: TimeoutType) -> None:
    name = {TimeoutType.START_TO_CLOSE: "StartToClose", TimeoutType.HEARTBEAT: "Heartbeat"}[kind]
    beat = {"heartbeat_timeout": SECOND} if kind is TimeoutType.HEARTBEAT else {}
    policy = RetryPolicy(non_retryable_error_types=[f"TemporalTimeout:{name}"])
    simulation = call(sleeping(100), retry_policy=policy, **beat)
    error = cause(simulation)
    assert isinstance(error, TimeoutError)
    assert error.type is kind
    assert len(simulation.calls[0].attempts) == 1


def test_schedule_to_close_ends_all() -> None:
    simulation = call(sleeping(100), start_to_close_timeout=None, schedule_to_close_timeout=25 * SECOND)
    error = cause(simulation)
    assert isinstance(error, TimeoutError)
    assert error.type is TimeoutType.SCHEDULE_TO_CLOSE
    assert simulation.calls[0].attempts[0].ended == 25 * SECOND


def test_the_runs_own_timeout_caps_those_of_its_activities() -> None:
    infos: list[activity.Info] = []

    @activity.defn
    async def look() -> None:
        infos.append(activity.info())

    simulate(Call.run, "look", [], activities=[look], run_timeout=5 * SECOND)
    assert infos[0].schedule_to_close_timeout == infos[0].start_to_close_timeout == 5 * SECOND


def test_a_timeout_without_time_for_another_attempt_is_a_schedule_to_close() -> None:
    simulation = call(
        sleeping(100), schedule_to_close_timeout=15 * SECOND, retry_policy=RetryPolicy(initial_interval=MINUTE)
    )
    error = cause(simulation)
    assert isinstance(error, TimeoutError)
    assert error.type is TimeoutType.SCHEDULE_TO_CLOSE
    assert simulation.calls[0].attempts[0].ended == 10 * SECOND


def test_schedule_to_start_where_nothing_serves_the_queue() -> None:
    @activity.defn
    async def lonely() -> None:
        raise AssertionError("no worker polls for this")

    OPTIONS.update(task_queue="elsewhere", schedule_to_start_timeout=3 * SECOND)
    simulation = simulate(Call.run, "lonely", [], activities=[lonely], unserved_task_queues=["elsewhere"])
    error = cause(simulation)
    assert isinstance(error, TimeoutError)
    assert (error.type, error.cause) == (TimeoutType.SCHEDULE_TO_START, None)
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    outer: Any = failure.value.cause
    assert outer.started_event_id == 0


def test_heartbeats_keep_an_attempt_alive_and_their_details_reach_the_next() -> None:
    seen: list[Any] = []

    @activity.defn
    async def worker() -> str:
        seen.append(list(activity.info().heartbeat_details))
        for number in range(4):
            activity.heartbeat(number, "rows")
            await asyncio.sleep(1)
        if activity.info().attempt == 1:
            await asyncio.sleep(3600)
        return "done"

    simulation = call(worker, start_to_close_timeout=timedelta(hours=2), heartbeat_timeout=2 * SECOND)
    assert simulation.result() == "done"
    assert seen == [[], [3, "rows"]]
    first, _second = simulation.calls[0].attempts
    assert first.outcome == "Heartbeat timeout"
    assert first.ended is not None
    assert 4 * SECOND < first.ended <= timedelta(seconds=5.2)


# --- cancellation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "ends", "state"),
    [
        (ActivityCancellationType.TRY_CANCEL, 5.0, "cancelled"),
        (ActivityCancellationType.WAIT_CANCELLATION_COMPLETED, 9.0, "cancelled"),
        (ActivityCancellationType.ABANDON, 5.0, "cancelled"),
    ],
)
def test_a_cancel_reaches_an_activity_through_its_heartbeats(
    kind: ActivityCancellationType, ends: float, state: str
) -> None:
    seen: list[Any] = []

    @activity.defn
    async def beating() -> None:
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            assert details is not None
            seen.append(details)
            assert activity.is_cancelled()
            await asyncio.sleep(1)
            raise

    async def client(handle: Any) -> None:
        await asyncio.sleep(5)
        await handle.cancel()

    simulation = call(
        beating, client=client, start_to_close_timeout=MINUTE, heartbeat_timeout=10 * SECOND, cancellation_type=kind
    )
    assert simulation.status == "cancelled"
    closed = next(event.time for event in simulation.trace if event.kind == "closed")
    # The heartbeat of 8 s is the first that leaves the worker after the cancel: it sends one in 8 s.
    assert closed == timedelta(seconds=ends)
    assert simulation.calls[0].state == state
    if kind is ActivityCancellationType.ABANDON:
        assert not seen[0].cancel_requested
        assert seen[0].not_found, "the run is gone"
    else:
        assert seen[0].cancel_requested or seen[0].not_found


def test_without_heartbeats_a_cancelled_activity_completes() -> None:
    OPTIONS["cancellation_type"] = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED

    async def client(handle: Any) -> None:
        await asyncio.sleep(1)
        await handle.cancel()

    simulation = call(sleeping(5), client=client)
    assert simulation.duration == 5 * SECOND
    assert simulation.calls[0].state == "completed"
    assert simulation.result() == "slept"


def test_a_cancel_during_a_backoff_ends_the_activity_at_once() -> None:
    OPTIONS["cancellation_type"] = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED

    async def client(handle: Any) -> None:
        await asyncio.sleep(0.5)
        await handle.cancel()

    simulation = call(failing(9), client=client)
    assert simulation.status == "cancelled"
    assert simulation.duration == timedelta(seconds=0.5)
    assert len(simulation.calls[0].attempts) == 1


def test_an_attempt_that_fails_after_the_cancel_is_not_retried() -> None:
    OPTIONS["cancellation_type"] = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED

    @activity.defn
    async def late_failure() -> None:
        await asyncio.sleep(5)
        raise ApplicationError("boom")

    async def client(handle: Any) -> None:
        await asyncio.sleep(1)
        await handle.cancel()

    simulation = call(late_failure, client=client)
    assert cause(simulation).message == "boom"
    with pytest.raises(WorkflowFailureError) as failure:
        simulation.result()
    error: Any = failure.value.cause
    assert error.retry_state is RetryState.CANCEL_REQUESTED


def test_cancelled_in_the_task_that_scheduled_it_it_never_leaves_the_worker() -> None:
    simulation = call(sleeping(1), faults=[cancel(at=1)])
    assert simulation.status == "cancelled"
    assert simulation.calls == []


# --- interceptors -------------------------------------------------------------------------------


def test_interceptors_see_and_change_calls_info_and_heartbeats() -> None:
    seen: list[Any] = []

    class Outbound(ActivityOutboundInterceptor):
        def info(self) -> activity.Info:
            info = super().info()
            seen.append("info")
            return info

        def heartbeat(self, *details: Any) -> None:
            seen.append(("heartbeat", details))
            super().heartbeat(*details, "marked")

    class Inbound(ActivityInboundInterceptor):
        def init(self, outbound: ActivityOutboundInterceptor) -> None:
            super().init(Outbound(outbound))

        async def execute_activity(self, input: ExecuteActivityInput) -> Any:
            input.args = [input.args[0] + 1]
            return f"<{await super().execute_activity(input)}>"

    class Both(Interceptor):
        def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
            return Inbound(next)

    @activity.defn
    def add(number: int) -> str:
        if activity.info().attempt == 1:
            activity.heartbeat(7)
            raise ApplicationError("again")
        return f"{number} {list(activity.info().heartbeat_details)}"

    simulation = simulate(Call.run, "add", [1], activities=[add], interceptors=[Both()])
    assert simulation.result() == "<2 [7, 'marked']>"
    assert ("heartbeat", (7,)) in seen
    assert "info" in seen


# --- what cannot be, and what was forgotten -------------------------------------------------------


def test_an_unregistered_activity_is_named() -> None:
    with pytest.raises(SimulationError, match="activity 'sleep' is not registered; registered: fail"):
        simulate(Call.run, "sleep", [], activities=[failing(1)])


@activity.defn
async def later(what: str = "") -> str:
    TOKENS.append(activity.info().task_token)
    activity.raise_complete_async()


TOKENS: list[bytes] = []


@pytest.mark.parametrize("by", ["id", "token"])
@pytest.mark.parametrize("how", ["complete", "fail", "fail and complete", "never"])
def test_c14_asynchronous_completion(by: str, how: str) -> None:
    """A client completes, or fails, what its function has left to it; what nobody completes times out."""
    TOKENS.clear()

    async def client(handle: Any) -> None:
        for word in how.split(" and "):
            await asyncio.sleep(10)
            given = {"activity_id": "1"} if by == "id" else {"task_token": TOKENS[-1]}
            left = handle.get_async_activity_handle(**given)
            if word == "complete":
                await left.heartbeat("nearly")
                await left.complete("in the end")
            elif word == "fail":
                await left.fail(ApplicationError("no luck", non_retryable=how == "fail"))
            if word in ("complete", "fail"):
                with pytest.raises(RPCError, match="invalid activityID"):
                    await left.complete("twice")

    simulation = call(later, client=client, start_to_close_timeout=MINUTE, retry_policy=RetryPolicy(maximum_attempts=2))
    if how.endswith("complete"):
        assert simulation.result() == "in the end"
        assert simulation.calls[0].attempts[-1].ran
    elif how == "fail":
        assert cause(simulation).message == "no luck"
    else:
        assert cause(simulation).type is TimeoutType.START_TO_CLOSE
        assert len(simulation.calls[0].attempts) == 2
    assert simulation.check_replay() is None


def test_c14_a_client_learns_of_a_cancel() -> None:
    """A heartbeat of what is left to a client says that the cancel is requested, and the client may report it."""

    async def client(handle: Any) -> None:
        await asyncio.sleep(1)
        left = handle.get_async_activity_handle(activity_id="1")
        await left.heartbeat()
        await handle.cancel()
        with pytest.raises(AsyncActivityCancelledError):
            await left.heartbeat()
        await left.report_cancellation()

    wait = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    simulation = call(later, client=client, start_to_close_timeout=MINUTE, cancellation_type=wait)
    assert (simulation.status, simulation.duration) == ("cancelled", SECOND)


def test_c14_faults_of_what_is_left_to_a_client() -> None:
    """A reply may be lost, and a worker, of an activity that is left to a client as of any."""
    options: Any = {"start_to_close_timeout": MINUTE, "retry_policy": RetryPolicy(maximum_attempts=2)}
    lost = call(later, faults=[fails_after("later")], **options)
    assert cause(lost).type == "SimulatedFailure"
    gone = call(later, faults=[worker_lost("later")], **options)
    assert [attempt.outcome for attempt in gone.calls[0].attempts] == ["StartToClose timeout"] * 2


def test_sockets_are_refused_to_a_library_that_wraps_or_swallows_that() -> None:
    requests: list[str] = []

    @activity.defn
    async def fetch() -> str:
        requests.append("a request")
        with suppress(BaseException):
            async with httpx.AsyncClient(trust_env=False) as api:
                await api.get("http://127.0.0.1:1/")
        return "not there"

    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"asyncio's create_connection\(\) does not work in a simulation"):
            call(fetch)
    assert len(requests) == 2

    @activity.defn
    async def waits() -> None:
        with suppress(BaseException):
            await asyncio.open_connection("localhost", 1)
        await asyncio.Event().wait()

    async def terminates(handle: Any) -> None:
        await asyncio.sleep(1)
        await handle.terminate()

    with pytest.raises(UnsupportedError, match="does not work in a simulation"):
        call(waits, client=terminates)


def test_what_needs_no_socket_of_asyncio_works(postgres: str, tmp_path: Path) -> None:
    @activity.defn
    async def fetch() -> str:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, text="an answer"))
        async with httpx.AsyncClient(transport=transport) as api:
            return (await api.get("http://there/")).text

    @activity.defn
    async def threads() -> str:
        return await asyncio.to_thread(postgresql)

    def postgresql() -> str:
        with psycopg.connect(postgres) as connection:
            return str(connection.execute("SELECT 'a row'").fetchone())

    @activity.defn
    def blocks() -> str:
        return postgresql()

    @activity.defn
    async def sqlite() -> str:
        with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection:
            return str(connection.execute("SELECT 'a row'").fetchone())

    results = {call(each).result() for each in (fetch, threads, blocks, sqlite)}
    assert results == {"an answer", "('a row',)"}


def test_sockets_are_refused() -> None:
    @activity.defn
    async def dial() -> None:
        await asyncio.open_connection("localhost", 1)

    with pytest.raises(UnsupportedError, match="give the activities a fake"):
        call(dial)


def test_a_function_that_waits_for_ever_times_out() -> None:
    @activity.defn
    async def stuck() -> None:
        await asyncio.Event().wait()

    simulation = call(stuck, retry_policy=RetryPolicy(maximum_attempts=1))
    assert isinstance(cause(simulation), TimeoutError)
    assert not simulation.calls[0].attempts[0].ran


def test_nothing_is_logged_or_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    call(sleeping(100), retry_policy=RetryPolicy(maximum_attempts=1))
    assert caplog.records == []


def test_the_cancelled_error_of_a_function_of_its_own_accord_is_a_failure() -> None:
    @activity.defn
    async def gives_up() -> None:
        raise TemporalCancelledError("on my own")

    simulation = call(gives_up)
    error = cause(simulation)
    assert isinstance(error, TemporalCancelledError)


def test_a_failure_that_cannot_be_encoded_is_a_failure_as_on_a_worker() -> None:
    simulation = call(failing(1, ApplicationError("busy", next_retry_delay=cast(Any, 3))))
    assert simulation.result() == 2
    assert simulation.calls[0].attempts[0].outcome.startswith("failed: Failed building exception result: ")


def test_what_fails_for_ever_is_told_and_ends() -> None:
    simulation = call(failing(10**9))
    assert simulation.status == "waiting"
    assert simulation.waiting_for == "activity 'fail' (attempt 1000, and it fails forever: attempt 1000)"


def test_a_loop_that_never_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("temporal_saga.testing.simulator._clock.MAX_JUMPS", 1_000)

    async def client(_handle: Any) -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(SimulationError, match="the clock has moved 1,000 times and there is no end"):
        call(failing(0), client=client)
