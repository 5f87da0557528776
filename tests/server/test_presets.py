"""The schedules of the presets, as the server keeps them: in virtual time, and in real time where workers are lost."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PauseActivityRequest, ResetActivityRequest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, RetryState, TimeoutError, TimeoutType
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from examples.dev_server import dev_server
from temporal_saga import presets
from tests.test_docs import load
from tests.test_presets import model

from .support import History, eventually

PRESETS = {name: preset for name, preset in vars(presets).items() if isinstance(preset, presets.Preset)}
# What would be the case without the types, to show that they are what ends the retries.
PRESETS["any_type"] = dataclasses.replace(presets.at_most_once, non_retryable_error_types=())
PRESETS["crowded"] = presets.Preset(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=2),
    maximum_attempts=0,
    schedule_to_close_timeout=timedelta(seconds=6),
    start_to_close_timeout=timedelta(seconds=1),
)
SHORT = timedelta(seconds=1)
LONG = timedelta(seconds=50)


@dataclass
class Attempt:
    scheduled: datetime
    started: datetime
    clock: float


@dataclass
class Script:
    """What an activity does, and what was seen of it."""

    type: str = "Other"
    ends_at: int = 0  # the attempt that fails for good; 0 for none
    hangs: bool = False
    beats: bool = False
    raises: Callable[[], BaseException] | None = None
    attempts: list[Attempt] = field(default_factory=list)
    ended: int = 0


SCRIPTS: dict[str, Script] = {}


@activity.defn
async def work(id: str) -> None:
    info, script = activity.info(), SCRIPTS[id]
    script.attempts.append(Attempt(info.current_attempt_scheduled_time, info.started_time, time.monotonic()))
    assert info.attempt == len(script.attempts)
    try:
        while script.hangs:
            await asyncio.sleep(0.1)
            if script.beats:
                activity.heartbeat()
    finally:
        script.ended += 1
    if script.raises is not None and info.attempt == 1:
        raise script.raises()
    raise ApplicationError("no", type=script.type, non_retryable=info.attempt == script.ends_at)


# In the sandbox each run would import pytest anew.
@workflow.defn(sandboxed=False)
class OneActivity:
    @workflow.run
    async def run(self, name: str, start_to_close: float, heartbeat: float) -> None:
        preset = PRESETS[name]
        one = timedelta(seconds=start_to_close) or preset.start_to_close_timeout
        await workflow.execute_activity(
            work,
            workflow.info().workflow_id,
            heartbeat_timeout=timedelta(seconds=heartbeat) or None,
            **preset(start_to_close_timeout=one),
        )


@asynccontextmanager
async def working(client: Client, queue: str = "") -> AsyncIterator[str]:
    queue = queue or str(uuid4())
    async with Worker(client, task_queue=queue, workflows=[OneActivity], activities=[work]):
        yield queue


async def start(
    client: Client, queue: str, script: Script, name: str, *, one: timedelta | None = None, heartbeat: int = 0
) -> WorkflowHandle[OneActivity, None]:
    id = f"{name}-{uuid4()}"
    SCRIPTS[id] = script
    seconds = one.total_seconds() if one else 0
    return await client.start_workflow(OneActivity.run, args=[name, seconds, heartbeat], id=id, task_queue=queue)


async def end(handle: WorkflowHandle[OneActivity, None]) -> tuple[RetryState | None, FailureError]:
    """Return why the server stopped to retry, and the failure of the last attempt."""
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    error = failure.value.cause
    assert isinstance(error, ActivityError)
    assert isinstance(error.cause, FailureError)
    return error.retry_state, error.cause


async def let_attempts_end(script: Script) -> None:
    """A worker that shuts down while an attempt ends, whose run is closed, may wait for ever (temporalio 1.35)."""
    script.hangs = False
    await eventually(lambda: script.ended == len(script.attempts))


# How many attempts, and why the server stops; 0 where it does not.
ENDS = [
    ("no_retry", 1, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("at_most_once", 5, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("fast", 6, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("conflict", 8, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("standard", 8, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("throttled", 10, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("patient", 221, RetryState.TIMEOUT),
    ("llm", 50, RetryState.MAXIMUM_ATTEMPTS_REACHED),
    ("forward_only", 0, None),
    ("compensation", 0, None),
    ("compensation_bounded", 60, RetryState.MAXIMUM_ATTEMPTS_REACHED),
]


async def test_attempts_that_take_their_time_end_with_schedule_to_close(client: Client) -> None:
    # In real time: on virtual time the server (1.32) now and then loses the timer that ends an attempt which runs.
    script = Script(hangs=True)
    async with working(client) as queue:
        handle = await start(client, queue, script, "crowded")
        state, error = await end(handle)
        await let_attempts_end(script)
    assert isinstance(error, TimeoutError)
    # Servers 1.29 and 1.30 give the second.
    assert state in (RetryState.TIMEOUT, RetryState.NON_RETRYABLE_FAILURE)
    # 1 s, a wait of 1 s, 1 s, a wait of 2 s, 1 s, cut off by schedule-to-close; a busy server is a little late.
    assert len(script.attempts) in (2, 3)
    events = (await handle.fetch_history()).events
    scheduled = next(event for event in events if event.HasField("activity_task_scheduled_event_attributes"))
    ended = next(event for event in events if event.HasField("activity_task_timed_out_event_attributes"))
    took = (ended.event_time.ToDatetime() - scheduled.event_time.ToDatetime()).total_seconds()
    worst = PRESETS["crowded"].worst_case()
    assert worst == timedelta(seconds=6)
    assert took == pytest.approx(worst.total_seconds(), abs=1.5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "attempts", "ends"),
    [pytest.param(*row, marks=pytest.mark.slow if row[1] >= 50 else ()) for row in ENDS],
    ids=[row[0] for row in ENDS],
)
async def test_the_server_keeps_the_schedule(
    time_skipping_env: WorkflowEnvironment, name: str, attempts: int, ends: RetryState | None
) -> None:
    client, preset = time_skipping_env.client, PRESETS[name]
    script = Script(ends_at=0 if attempts else 13)  # three attempts at the longest wait, at least
    began = time.monotonic()
    async with working(client) as queue:
        state, error = await end(await start(client, queue, script, name))
    assert isinstance(error, ApplicationError)
    assert error.type == "Other"
    assert state == (ends or RetryState.NON_RETRYABLE_FAILURE)

    seen = script.attempts
    delays = list(islice(preset.delays(), 12) if not attempts else preset.delays())
    assert len(seen) == len(delays) + 1 == (attempts or 13)
    assert (f"Gives up after attempt {len(seen)}" in preset.explain()) == (attempts > 0)
    clocks = [began, *(attempt.clock for attempt in seen)]
    for number, (before, after, delay) in enumerate(zip(seen[:-1], seen[1:], delays, strict=True)):
        # Beyond the wait there is the time until the attempt was reported: real time, within what the clock saw between
        # the attempt before it and the one after it.
        late = (after.scheduled - before.started - delay).total_seconds()
        assert 0 <= late <= clocks[number + 2] - clocks[number] + 0.01
        assert after.started >= after.scheduled


def test_no_preset_is_left_out() -> None:
    assert {name for name, *_ in ENDS} | {"any_type", "crowded"} == set(PRESETS)


@pytest.mark.parametrize(
    ("name", "type"),
    [
        ("llm", "InvalidInput"),
        ("llm", "AuthenticationError"),
        ("at_most_once", "Ambiguous"),
        ("at_most_once", "InProgress"),
    ],
)
async def test_an_error_of_such_a_type_is_not_retried(client: Client, name: str, type: str) -> None:
    script = Script(type)
    async with working(client) as queue:
        state, _ = await end(await start(client, queue, script, name))
    assert state == RetryState.NON_RETRYABLE_FAILURE
    assert len(script.attempts) == 1


@pytest.mark.parametrize("raises", [asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize(("name", "attempts"), [("at_most_once", 1), ("any_type", 2)])
async def test_at_most_once_ends_with_what_no_except_exception_sees(
    client: Client, name: str, attempts: int, raises: type[BaseException]
) -> None:
    script = Script(ends_at=2, raises=raises)
    async with working(client) as queue:
        await end(await start(client, queue, script, name))
    assert len(script.attempts) == attempts


async def test_at_most_once_retries_what_nothing_has_classified(client: Client) -> None:
    script = Script("ReadTimeout", ends_at=2)
    async with working(client) as queue:
        await end(await start(client, queue, script, "at_most_once"))
    assert len(script.attempts) == 2


@pytest.mark.parametrize("heartbeat", [0, 1], ids=["start-to-close", "heartbeat"])
@pytest.mark.parametrize("name", ["at_most_once", "any_type"])
async def test_at_most_once_ends_with_a_lost_worker(client: Client, name: str, heartbeat: int) -> None:
    script = Script(hangs=True)
    one = LONG if heartbeat else SHORT
    async with working(client) as queue:
        handle = await start(client, queue, script, name, one=one, heartbeat=heartbeat)
        if name == "any_type":
            await eventually(lambda: len(script.attempts) == 2)
            await handle.terminate()
        else:
            state, error = await end(handle)
            assert isinstance(error, TimeoutError)
            assert error.type == (TimeoutType.HEARTBEAT if heartbeat else TimeoutType.START_TO_CLOSE)
            assert state == RetryState.NON_RETRYABLE_FAILURE
            assert len(script.attempts) == 1
        await let_attempts_end(script)


@pytest.mark.parametrize("name", ["at_most_once", "any_type"])
async def test_at_most_once_ends_with_a_worker_that_shuts_down(client: Client, name: str) -> None:
    script = Script(hangs=True, ends_at=2)
    async with working(client) as queue:
        handle = await start(client, queue, script, name)
        await eventually(lambda: script.attempts)
    script.hangs = False
    async with working(client, queue):
        state, error = await end(handle)
    assert state == RetryState.NON_RETRYABLE_FAILURE
    assert isinstance(error, ApplicationError)
    assert (error.type, len(script.attempts)) == (("WorkerShutdown", 1) if name == "at_most_once" else ("Other", 2))


@pytest.fixture(scope="module")
async def operated() -> AsyncIterator[Client]:
    """A server on which an operator can pause and reset activities."""
    async with dev_server(extra_args=["--dynamic-config-value", "frontend.activityAPIsEnabled=true"]) as env:
        yield env.client


@pytest.mark.parametrize("type", ["ActivityPause", "ActivityReset"])
@pytest.mark.parametrize("name", ["at_most_once", "any_type"])
async def test_at_most_once_ends_with_an_attempt_that_an_operator_interrupts(
    operated: Client, name: str, type: str
) -> None:
    script = Script(hangs=True, beats=True, ends_at=2)
    async with working(operated) as queue:
        handle = await start(operated, queue, script, name, heartbeat=5)
        await eventually(lambda: script.attempts)
        execution = WorkflowExecution(workflow_id=handle.id)
        if type == "ActivityPause":
            pause = PauseActivityRequest(namespace="default", execution=execution, type="work")
            await operated.workflow_service.pause_activity(pause)
        else:
            reset = ResetActivityRequest(namespace="default", execution=execution, type="work")
            await operated.workflow_service.reset_activity(reset)
        if name == "at_most_once":
            state, error = await asyncio.wait_for(end(handle), 30)  # paused, it would never end
            assert state == RetryState.NON_RETRYABLE_FAILURE
            assert isinstance(error, ApplicationError)
            assert error.type == type
            assert len(script.attempts) == 1
        else:

            async def pending() -> bool:
                return bool((await handle.describe()).raw_description.pending_activities[0].last_failure.message)

            await eventually(pending)
            await handle.terminate()
        script.hangs = False


# --- the pages ---


async def test_the_model_of_the_page_is_asked_again_when_it_says(time_skipping_env: WorkflowEnvironment) -> None:
    page, client, queue = load("llm"), time_skipping_env.client, str(uuid4())
    began = time.monotonic()
    async with model((429, {"retry-after": "300"}), (503, {}), (200, {})) as url:
        activities = [page.Clerk(page.Model(url)).summarize, page.open_case, page.close_case]
        runner = UnsandboxedWorkflowRunner()  # the page's code is in no module that it could import
        async with Worker(
            client, task_queue=queue, workflows=[page.Claim], activities=activities, workflow_runner=runner
        ):
            handle = await client.start_workflow(page.Claim.run, "rain", id=queue, task_queue=queue)
            assert await handle.result() == "short: Summarize: rain"
    history = History(await handle.fetch_history())
    asked, answered = history.of("ACTIVITY_TASK_SCHEDULED")[1], history.of("ACTIVITY_TASK_STARTED")[1]
    assert answered.activity_task_started_event_attributes.attempt == 3
    took = (answered.event_time.ToDatetime() - asked.event_time.ToDatetime()).total_seconds()
    # As long as the model asked for, which is more than the preset's longest wait; then the preset's second wait.
    assert 0 <= took - (300 + 2) <= time.monotonic() - began + 0.01


async def test_the_fax_of_the_page_is_sent_once_and_undone(client: Client) -> None:
    page, queue = load("retry-presets"), str(uuid4())
    async with Worker(
        client,
        task_queue=queue,
        workflows=[page.Fax],
        activities=[page.send_fax, page.refund],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        handle = await client.start_workflow(page.Fax.run, "o-1", id=queue, task_queue=queue)
        state, error = await end(handle)
    assert state == RetryState.NON_RETRYABLE_FAILURE
    assert isinstance(error, ApplicationError)
    assert error.type == "Ambiguous"
    history = History(await handle.fetch_history())
    assert history.steps == ["send_fax:do", "send_fax:undo"]
    [sent, _] = history.of("ACTIVITY_TASK_STARTED")
    assert sent.activity_task_started_event_attributes.attempt == 1
