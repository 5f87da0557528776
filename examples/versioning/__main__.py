"""Deploys one version after another while bookings are open, and one of them too early."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sysconfig
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Agency
from .models import Trip
from .workflows import VERSIONS, BookingV1

QUEUE = "bookings"


async def connect() -> Client:
    """Connects to the server that the environment names (`TEMPORAL_ADDRESS` and the like)."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, identity=QUEUE, plugins=[SagaPlugin()])


@asynccontextmanager
async def server() -> AsyncGenerator[Client]:
    """The server that TEMPORAL_ADDRESS names; else one that runs as long as the story."""
    if os.environ.get("TEMPORAL_ADDRESS"):
        yield await connect()
        return
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    cli = os.environ.get("TEMPORAL_CLI") or shutil.which("temporal", path=path)  # None: the SDK downloads one
    async with await WorkflowEnvironment.start_local(
        identity=QUEUE, dev_server_existing_path=cli, dev_server_log_level="error", plugins=[SagaPlugin()]
    ) as env:
        yield env.client


HISTORIES = Path(__file__).with_name("histories")


def working(client: Client, agency: Agency, version: int, queue: str = QUEUE) -> Worker:
    """A worker with one version of the workflow, as a deployment has it."""
    return Worker(client, task_queue=queue, workflows=[VERSIONS[version]], activities=agency.activities)


async def start(client: Client, trip: Trip, queue: str = QUEUE) -> WorkflowHandle[BookingV1, None]:
    """Books a trip, with whichever version is deployed: all have the same name and signature."""
    return await client.start_workflow(BookingV1.run, trip, id=f"{queue}-{trip.traveler}", task_queue=queue)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so."""
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def waits_for_payment(handle: WorkflowHandle[BookingV1, None]) -> None:
    """Waits until the first thing is booked."""

    async def booked() -> bool:
        return await happened(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)

    await eventually(booked)


async def happened(handle: WorkflowHandle[BookingV1, None], kind: EventType.ValueType) -> bool:
    """Whether the history has such an event."""
    return any(event.event_type == kind for event in (await handle.fetch_history()).events)


async def tell() -> None:
    """The story."""
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)  # else a version that cannot replay is a stack trace
    agency, queue = Agency(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client:
        async with working(client, agency, 1, queue):
            ann = await start(client, Trip("Ann", "Rome"), queue)
            await waits_for_payment(ann)
            print(f"Version 1. Ann has: {', '.join(agency.bookings.values())}.")

        async with working(client, agency, 4, queue):
            await ann.signal(BookingV1.paid)
            await eventually(lambda: happened(ann, EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED))
            print(f"Version 4, too early: Ann's run cannot replay. Still there: {', '.join(agency.bookings.values())}.")

        async with working(client, agency, 2, queue):
            await ann.result()
            print(f"Version 2. Ann's run went on as it began: {', '.join(agency.bookings.values())}.")
            bob = await start(client, Trip("Bob", "Oslo"), queue)
            await waits_for_payment(bob)
            print(f"Bob has: {list(agency.bookings.values())[-1]}.")

        async with working(client, agency, 3, queue):
            await bob.cancel()
            with suppress(WorkflowFailureError):
                await bob.result()
            print(f"Version 3. Bob has cancelled; there is: {', '.join(agency.bookings.values())}.")

        async with working(client, agency, 4, queue):
            cyd = await start(client, Trip("Cyd", "Bern"), queue)
            await cyd.signal(BookingV1.paid)
            await cyd.result()
            print(f"Version 4, in time. Cyd has: {', '.join(list(agency.bookings.values())[-2:])}.")


async def record() -> None:
    """Writes the history of a run of each version that is cancelled while it waits for the payment."""
    async with server() as client:
        for version in VERSIONS:
            queue = f"{QUEUE}-v{version}"
            async with working(client, Agency(), version, queue):
                handle = await start(client, Trip("Ann", "Rome"), queue)
                await waits_for_payment(handle)
                await handle.cancel()
                with suppress(WorkflowFailureError):
                    await handle.result()
                history = await handle.fetch_history()
            (HISTORIES / f"v{version}.json").write_text(history.to_json() + "\n")


async def work(version: int) -> None:
    """Works until it is stopped."""
    async with working(await connect(), Agency(), version):
        print(f"working on task queue {QUEUE}, version {version}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    handle: WorkflowHandle[BookingV1, None] = client.get_workflow_handle(f"{QUEUE}-{options.traveler}")
    if options.command == "start":
        await start(client, Trip(options.traveler, options.city))
    elif options.command == "pay":
        await handle.signal(BookingV1.paid)
    elif options.command == "cancel":
        await handle.cancel()
    status = (await handle.describe()).status
    print("unknown" if status is None else status.name)


def run(program: Coroutine[Any, Any, None]) -> None:
    """Runs a program, and gives the SDK's threads time to come to rest: else the interpreter may crash at its end."""

    async def rested() -> None:
        try:
            await program
        finally:
            await asyncio.sleep(0.3)  # github.com/temporalio/sdk-python/issues/300

    asyncio.run(rested())


def main() -> None:
    """Reads the command line. Without a command it tells the story."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Without a command: tells the story, with a server and workers of its own."
    )
    commands = parser.add_subparsers(dest="command")
    worker = commands.add_parser("worker", help="run a worker")
    worker.add_argument("--version", type=int, choices=list(VERSIONS), default=2)
    commands.add_parser("record", help="write the histories again")
    of = {name: commands.add_parser(name, help=f"{name} a booking") for name in ("start", "pay", "cancel", "status")}
    for each in of.values():
        each.add_argument("traveler")
    of["start"].add_argument("city")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.version))
    elif options.command == "record":
        run(record())
    else:
        run(command(options))


if __name__ == "__main__":
    main()
