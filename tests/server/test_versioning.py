"""Versions of a workflow: which histories replay on which, and a deployment that comes too early."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, WorkflowHistory
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError
from temporalio.worker import Worker, WorkerDeploymentConfig

from examples.versioning.__main__ import HISTORIES, eventually, happened, start, waits_for_payment, working
from examples.versioning.activities import Agency
from examples.versioning.models import Trip
from examples.versioning.workflows import VERSIONS, BookingV1
from tests.server.support import History, Replays

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
