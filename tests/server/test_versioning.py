"""Versions of a workflow: which histories replay on which, and a deployment that comes too early."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity, workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerDeploymentConfig

from examples.versioning.__main__ import HISTORIES, eventually, happened, start, waits_for_payment, working
from examples.versioning.activities import Agency
from examples.versioning.models import Trip
from examples.versioning.workflows import VERSIONS, BookingV1
from temporal_saga import Saga, current_step, presets
from tests.server.support import History, Replays
from tests.test_troubleshooting import entries

REPLAYS = {1: {1, 2}, 2: {2, 3}, 3: {2, 3, 4}, 4: {3, 4}}


@pytest.fixture(scope="module", params=VERSIONS)
async def version(request: pytest.FixtureRequest) -> AsyncIterator[tuple[int, Replays]]:
    async with Replays([VERSIONS[request.param]]) as replays:
        yield request.param, replays


@pytest.mark.parametrize("recorded", VERSIONS)
async def test_which_histories_replay_on_which_version(version: tuple[int, Replays], recorded: int) -> None:
    """As the README's table says: the replay fails without the patch."""
    deployed, replays = version
    history = History(WorkflowHistory.from_json("booking", (HISTORIES / f"v{recorded}.json").read_text()))
    assert history.undone == ["book_hotel" if recorded == 1 else "book_flight"]
    if deployed in REPLAYS[recorded]:
        await replays.replay(history)
    else:
        with pytest.raises(workflow.NondeterminismError):
            await replays.replay(history)


async def test_a_run_waits_for_a_version_that_can_replay_it(client: Client) -> None:
    """Deployed too early, the last version fails its workflow task; with the patch the run goes on in its old order."""
    agency, queue = Agency(), f"v-{uuid4()}"
    async with working(client, agency, 1, queue):
        handle = await start(client, Trip("Ann", "Rome"), queue)
        await waits_for_payment(handle)
    async with working(client, agency, 4, queue):
        await handle.signal(BookingV1.paid)
        await eventually(lambda: happened(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED))
        assert list(agency.bookings.values()) == ["hotel in Rome for Ann"]
    async with working(client, agency, 2, queue):
        await handle.result()
        assert list(agency.bookings.values()) == ["hotel in Rome for Ann", "flight to Rome for Ann"]
        second = await start(client, Trip("Bob", "Rome"), queue)
        await second.signal(BookingV1.paid)
        await second.result()
    assert list(agency.bookings.values())[2:] == ["flight to Rome for Bob", "hotel in Rome for Bob"]


async def test_with_worker_versioning_a_run_keeps_its_version(client: Client) -> None:
    """As the README shows it: no patch, and a run that began on version 1 ends on version 1."""
    agency, name = Agency(), f"v-{uuid4()}"

    def deployed(version: int) -> Worker:
        return Worker(
            client,
            task_queue=name,
            workflows=[VERSIONS[version]],
            activities=agency.activities,
            deployment_config=WorkerDeploymentConfig(
                version=WorkerDeploymentVersion(deployment_name=name, build_id=str(version)),
                use_worker_versioning=True,
                default_versioning_behavior=VersioningBehavior.PINNED,
            ),
        )

    async def set_current(version: int) -> None:
        request = SetWorkerDeploymentCurrentVersionRequest(
            namespace=client.namespace, deployment_name=name, build_id=str(version)
        )

        async def is_set() -> bool:
            try:  # the worker has to have polled before
                await client.workflow_service.set_worker_deployment_current_version(request)
            except RPCError:
                return False
            return True

        await eventually(is_set)

    async with deployed(1):
        await set_current(1)
        first = await start(client, Trip("Ann", "Rome"), name)
        await waits_for_payment(first)
        async with deployed(4):
            await set_current(4)
            second = await start(client, Trip("Bob", "Rome"), name)
            await waits_for_payment(second)
            for handle in (first, second):
                await handle.signal(BookingV1.paid)
                await handle.result()
    # Each in the order of its own version.
    assert [booking.rpartition(" ")[0] for booking in agency.bookings.values()] == [
        "hotel in Rome for",
        "flight to Rome for",
        "flight to Rome for",
        "hotel in Rome for",
    ]


# --- what a changed call does to an open run, as docs/keys.md says ---

MADE: list[tuple[int, str]] = []


@activity.defn(name="charge_once")
async def charge(number: int) -> None:
    MADE.append((number, current_step().key))


class _Changing:
    """Waits after its call, without a command in the history."""

    saga = "changing"
    numbers: tuple[int, ...] = (1,)
    key: str | None = None

    def __init__(self) -> None:
        self.is_due = False

    async def pay(self) -> None:
        async with Saga(self.saga, activity_options=presets.standard()) as saga:
            for number in self.numbers:
                await saga.execute_activity(charge, number, key=self.key)
            await workflow.wait_condition(lambda: self.is_due)

    @workflow.signal
    def go_on(self) -> None:
        self.is_due = True


@workflow.defn(name="Changing", sandboxed=False)
class Before(_Changing):
    @workflow.run
    async def run(self) -> None:
        await self.pay()


@workflow.defn(name="Changing", sandboxed=False)
class Inserted(_Changing):
    numbers = (0, 1)

    @workflow.run
    async def run(self) -> None:
        await self.pay()


@workflow.defn(name="Changing", sandboxed=False)
class Renamed(_Changing):
    saga = "renamed"

    @workflow.run
    async def run(self) -> None:
        await self.pay()


@workflow.defn(name="Changing", sandboxed=False)
class Keyed(_Changing):
    key = "1"

    @workflow.run
    async def run(self) -> None:
        await self.pay()


@pytest.mark.parametrize("changed", [Inserted, Renamed, Keyed])
async def test_a_call_that_changes_in_an_open_run(client: Client, changed: type[_Changing]) -> None:
    """Renamed or keyed, it stops the run with a message that is on the page; a call before it makes it happen twice."""
    queue = f"v-{uuid4()}"
    MADE.clear()
    async with Worker(client, task_queue=queue, workflows=[Before], activities=[charge]):
        handle = await client.start_workflow("Changing", id=queue, task_queue=queue)
        await eventually(lambda: happened(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED))
        await eventually(lambda: _is_idle(handle))
    ((_, key),) = MADE
    async with Worker(client, task_queue=queue, workflows=[changed], activities=[charge]):
        await handle.signal("go_on")
        if changed is Inserted:
            await handle.result()
            assert [(number, other == key) for number, other in MADE] == [(1, True), (1, False)]
            return
        await eventually(lambda: happened(handle, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED))
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            message = event.workflow_task_failed_event_attributes.failure.message
            entry = next(each for each in entries(of_the_sdk=True) if "Activity id" in each)
            assert re.fullmatch(re.escape(entry).replace("…", "charge_once:do:[0-9a-f-]{36}"), message)
    assert len(MADE) == 1
    await handle.terminate()


async def _is_idle(handle: WorkflowHandle[Any, Any]) -> bool:
    events = [event async for event in handle.fetch_history_events()]
    return events[-1].event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
