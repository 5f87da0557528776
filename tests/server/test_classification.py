"""What becomes of an activity's errors on the real server: with the plugin, and with the decorator alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from time import sleep
from typing import Any
from uuid import uuid4

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetActivityRequest
from temporalio.client import Client
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory, CancelledError, RetryState
from temporalio.worker import SharedStateManager, Worker

from temporal_saga.plugin import SagaPlugin

from .classified import Api, Buys, Order, Till, bare_async, bare_sync, refund, release, reserve
from .support import Replays, Run, Runs, eventually

# An attempt that is lost ends late, maybe while core tells it to; an error in the SDK's own task would end the worker.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot find activity to cancel")

TILL = Till()
CHARGES: dict[str, Any] = {
    "plugin, async": bare_async,
    "plugin, thread": bare_sync,
    "plugin, process": bare_sync,
    "plugin and decorator": TILL.charge_sync,
    "decorator, async": TILL.charge_async,
    "decorator, thread": TILL.charge_sync,
    "decorator, process": TILL.charge_sync,
}


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api()
    yield api
    api.close()


@pytest.fixture(scope="module", params=CHARGES)
async def queue(client: Client, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A worker of each kind; with the SDK's own throttling of heartbeats, which holds most of them back."""
    config = client.config()
    config["plugins"] = [SagaPlugin(classify="plugin" in request.param)]
    with ExitStack() as stack:
        options: dict[str, Any] = {"activity_executor": stack.enter_context(ThreadPoolExecutor(4))}
        if "process" in request.param:
            spawn = multiprocessing.get_context("spawn")  # a fork would take over the SDK's threads
            manager = stack.enter_context(spawn.Manager())
            pool = stack.enter_context(ProcessPoolExecutor(2, spawn, import_module, (Api.__module__,)))
            list(pool.map(sleep, [0.5, 0.5]))  # both have begun: that takes seconds of an attempt on a busy machine
            options = {
                "activity_executor": pool,
                "shared_state_manager": SharedStateManager.create_from_multiprocessing(manager),
            }
        queue = f"classified-{uuid4()}"
        activities = [CHARGES.get(request.param, bare_async), reserve, release, refund]
        async with Worker(Client(**config), task_queue=queue, workflows=[Buys], activities=activities, **options):
            yield queue


on_two_kinds = pytest.mark.parametrize("queue", ["plugin, async", "decorator, thread"], indirect=True)
"""For what does not depend on how the activity runs."""


@pytest.fixture(scope="module")
async def replays_of_buys() -> AsyncIterator[Replays]:
    async with Replays([Buys]) as replays:
        yield replays


@pytest.fixture
async def buys(client: Client, queue: str, replays_of_buys: Replays) -> AsyncIterator[Runs]:
    runs = Runs(client, queue, [Buys], replays_of_buys)
    yield runs
    await runs.close()


async def failure_of(run: Run) -> ApplicationError:
    """Wait until the charge has failed, and return what its activity said."""
    error = await run.failure()
    assert isinstance(error, ActivityError)
    assert isinstance(error.cause, ApplicationError)
    return error.cause


async def test_a_declined_card_undoes_what_came_before_it(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["402"]))
    error = await failure_of(run)
    assert (error.type, error.non_retryable) == ("Declined", True)
    assert error.category is ApplicationErrorCategory.BENIGN
    assert error.message == "httpx.HTTPStatusError 402"
    assert list(error.details) == [{"temporal_saga": {"v": 1, "kind": "DECLINED", "effect": "none"}}]
    assert "402" in str(error.cause)  # the library's own words
    assert (await run.history()).undone == ["reserve"]


@on_two_kinds
async def test_tried_again_when_the_api_says_and_not_before(buys: Runs, api: Api) -> None:
    """Sooner than the retry policy would, or later."""
    for interval in (0.01, 30):
        run = await buys.start(Buys.run, Order(api.url, ["429?Retry-After=1", "ok"], interval=interval))
        assert await run.handle.result() == "bought"
        key = (await run.history()).ids[1].rpartition(":")[2]
        first, second = (call.at for call in api.calls if call.key == key and call.path in ("/429", "/ok"))
        assert 1 <= second - first < 10


async def test_a_decline_after_a_read_timeout_is_undone(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["stall", "402"]))
    error = await failure_of(run)
    assert error.type == "Declined"
    assert error.details[-1]["temporal_saga"]["effect"] == "unknown"
    history = await run.history()
    assert history.undone == ["charge", "reserve"]
    assert history.ids[1].rpartition(":")[2] not in api.applied


async def test_a_decline_after_attempts_without_effect_is_not_undone(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["refused", "429", "429", "402"]))
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "none"
    history = await run.history()
    assert history.undone == ["reserve"]
    assert api.seen[history.ids[1].rpartition(":")[2]] == ["[]"] * 4  # the mark is not for the activity to see


@on_two_kinds
async def test_a_refused_connection_until_the_last_attempt_is_not_undone(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["refused", "refused"]))
    assert (await failure_of(run)).type == "NotSent"
    assert (await run.history()).undone == ["reserve"]


@on_two_kinds  # all kinds lose an attempt in the test of heartbeat details
async def test_a_lost_attempt_between_makes_the_effect_unknown(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["429", "hang ok", "402"], seconds=3))
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "unknown"
    assert (await run.history()).undone == ["charge", "reserve"]


@on_two_kinds
async def test_an_attempt_after_an_operators_reset_is_no_first_attempt(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["402-later", "ok"], interval=600))

    async def failed_once() -> bool:
        pending = (await run.handle.describe()).raw_description.pending_activities
        return any(activity.attempt == 2 for activity in pending)

    await eventually(failed_once)
    step = (await run.history()).ids[1]
    await buys.client.workflow_service.reset_activity(
        ResetActivityRequest(
            namespace=buys.client.namespace, execution=WorkflowExecution(workflow_id=run.handle.id), id=step
        )
    )
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "unknown"
    assert (await run.history()).undone == ["charge", "reserve"]


@on_two_kinds
async def test_an_unknown_exception_goes_on_as_it_is_and_makes_the_effect_unknown(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["bug"]))
    error = await failure_of(run)
    assert (error.type, error.message, list(error.details)) == ("ValueError", api.url, [])
    run = await buys.start(Buys.run, Order(api.url, ["bug", "402"]))
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "unknown"
    assert (await run.history()).undone == ["charge", "reserve"]


@on_two_kinds
async def test_an_unknown_exception_is_not_tried_again_where_ambiguous_is_not(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["bug", "ok"], never_again=["Ambiguous"]))
    error = await failure_of(run)
    assert (error.type, error.message) == ("Ambiguous", "ValueError")
    assert (await run.history()).undone == ["charge", "reserve"]


async def test_the_activity_resumes_from_its_own_heartbeat_details(buys: Runs, api: Api) -> None:
    # The third attempt sends none, so that the fourth goes on from those of the second; the fifth is lost.
    tries = ["refused", "beat 429", "429", "beat beat refused", "beat hang", "402"]
    run = await buys.start(Buys.run, Order(api.url, tries, seconds=3))
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "unknown"
    history = await run.history()
    two, four, five = (f"['page', {attempt}]" for attempt in (2, 4, 5))
    assert api.seen[history.ids[1].rpartition(":")[2]] == ["[]", "[]", two, two, four, five]
    assert history.undone == ["charge", "reserve"]


async def test_an_activity_that_has_sent_details_proves_nothing(buys: Runs, api: Api) -> None:
    """It has done something, whatever its last call meets."""
    all_tries = [["beat 402"], ["beat 429", "402"], ["429", "beat refused", "402"]]
    runs = [await buys.start(Buys.run, Order(api.url, tries)) for tries in all_tries]  # at a time: retries take a while
    for tries, run in zip(all_tries, runs, strict=True):
        assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "unknown", tries
        assert (await run.history()).undone == ["charge", "reserve"], tries


async def test_a_decline_of_a_clients_own_second_try_is_undone_and_that_of_its_only_try_is_not(
    buys: Runs, api: Api
) -> None:
    """The first try charged, and was answered with 500. The decline is final all the same."""
    tries = ["again 500-then-402", "again 402"]
    second, only = [await buys.start(Buys.run, Order(api.url, [each, "ok"])) for each in tries]
    for run, effect, undone in [(second, "unknown", ["charge", "reserve"]), (only, "none", ["reserve"])]:
        error = await failure_of(run)
        assert (error.type, error.details[-1]["temporal_saga"]["effect"]) == ("Declined", effect)
        history = await run.history()
        assert history.undone == undone
        assert history.ids[1].rpartition(":")[2] not in api.applied


async def test_a_heartbeat_without_details_is_no_progress(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["pulse 429", "pulse refused", "pulse 402"]))
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "none"
    assert (await run.history()).undone == ["reserve"]


@dataclass(frozen=True)
class Wait:
    """What each attempt to charge meets, with start-to-close 2 s and schedule-to-close 6 s; and what comes of it."""

    tries: list[str]
    attempts: int
    effect: str | None
    undone: list[str]


WAITS = {
    "it fits": Wait(["429?Retry-After=1", "ok"], 2, None, []),
    "a 403 that says when": Wait(["403?Retry-After=1", "ok"], 2, None, []),
    "no attempt would start": Wait(["429?Retry-After=60", "ok"], 1, "none", ["reserve"]),
    "no full attempt would fit": Wait(["403?Retry-After=5", "ok"], 1, "none", ["reserve"]),
    "the second no longer fits": Wait(["429?Retry-After=1", "429?Retry-After=4", "ok"], 2, "none", ["reserve"]),
    "by hand": Wait(["by-hand", "ok"], 1, "none", ["reserve"]),
    "after an unknown effect": Wait(["stall", "429?Retry-After=60", "ok"], 2, "unknown", ["charge", "reserve"]),
}


@on_two_kinds
async def test_a_wait_that_no_longer_fits_is_final_and_keeps_its_proof(buys: Runs, api: Api) -> None:
    """Never sooner than the other side asks; and no attempt that schedule-to-close would cut off, and make unknown."""
    for name, wait in WAITS.items():
        run = await buys.start(Buys.run, Order(api.url, wait.tries, seconds=2, overall=6))
        if wait.effect is None:
            assert await run.handle.result() == "bought", name
        else:
            error = await run.failure()
            assert isinstance(error, ActivityError), name
            assert error.retry_state is RetryState.NON_RETRYABLE_FAILURE, name
            assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == wait.effect, name
        history = await run.history()
        assert history.undone == wait.undone, name
        key = history.ids[1].rpartition(":")[2]
        begun = [call.at for call in api.calls if call.key == key and call.path == "/seen"]
        assert len(begun) == wait.attempts, name
        if "Retry-After=1" in wait.tries[0]:
            assert 1 <= begun[1] - begun[0] < 4, name


@pytest.mark.parametrize("queue", ["neither, async"], indirect=True)
async def test_by_hand_and_alone_the_server_ends_it_with_its_proof(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["by-hand", "ok"], seconds=2, overall=6))
    error = await run.failure()
    assert isinstance(error, ActivityError)
    assert error.retry_state is RetryState.TIMEOUT
    assert (await failure_of(run)).details[-1]["temporal_saga"]["effect"] == "none"
    assert (await run.history()).undone == ["reserve"]


async def test_a_cancel_goes_through(buys: Runs, api: Api) -> None:
    run = await buys.start(Buys.run, Order(api.url, ["wait"], heartbeat=2))
    await run.event("ACTIVITY_TASK_COMPLETED")
    await eventually(lambda: api.calls[-1].path == "/seen")
    await run.handle.cancel()
    assert isinstance(await run.failure(), CancelledError)
    history = await run.history()
    assert len(history.of("ACTIVITY_TASK_CANCELED")) == 1
    assert history.undone == ["charge", "reserve"]
