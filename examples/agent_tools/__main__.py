"""Tells of agents that book a trip: it is approved, rejected, cancelled, and has to do with a hotel that is full."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sysconfig
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio.client import Client, Plugin, WorkflowFailureError, WorkflowHandle
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Agency
from .models import State, Status, Trip

QUEUE = "trips"
FRAMEWORKS = ["pydantic-ai", "openai-agents"]

# The imports are in the functions, so that one of the frameworks is enough.


def workflow_of(framework: str) -> type[Any]:
    """The workflow whose agent is made with a framework."""
    if framework == "pydantic-ai":
        from .with_pydantic_ai import PydanticTrip

        return PydanticTrip
    from .with_openai_agents import OpenAITrip

    return OpenAITrip


def plugins(framework: str) -> list[Plugin]:
    """A client's plugins. Each framework brings a data converter, so that a client has one of the two."""
    if framework == "pydantic-ai":
        from pydantic_ai.durable_exec.temporal import PydanticAIPlugin

        return [PydanticAIPlugin(), SagaPlugin(classify=True)]
    from temporalio.openai_agents import ModelActivityParameters, OpenAIAgentsPlugin

    from .fake_openai_agents import FakeModel

    parameters = ModelActivityParameters(start_to_close_timeout=timedelta(seconds=60))
    return [OpenAIAgentsPlugin(parameters, model_provider=FakeModel()), SagaPlugin(classify=True)]


def with_plugins(client: Client, framework: str) -> Client:
    """The same client with a framework's plugins."""
    config = client.config()
    config["plugins"] = plugins(framework)
    return Client(**config)


async def connect(framework: str) -> Client:
    """Connects to the server that the environment names (`TEMPORAL_ADDRESS` and the like)."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=plugins(framework))


@asynccontextmanager
async def server() -> AsyncGenerator[Client]:
    """A plain client of the server that TEMPORAL_ADDRESS names; else of one that runs as long as the story."""
    if os.environ.get("TEMPORAL_ADDRESS"):
        config = ClientConfig.load_client_connect_config()
        yield await Client.connect(**config)
        return
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    cli = os.environ.get("TEMPORAL_CLI") or shutil.which("temporal", path=path)  # if None, the SDK downloads one
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=cli, dev_server_log_level="error") as env:
        yield env.client


@asynccontextmanager
async def working(
    client: Client, agency: Agency, framework: str, queue: str = QUEUE, **options: Any
) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client,
            task_queue=f"{queue}-{framework}",
            workflows=[workflow_of(framework)],
            activities=agency.activities,
            activity_executor=threads,
            **options,
        ):
            yield


async def start(client: Client, trip: Trip, framework: str, queue: str = QUEUE) -> WorkflowHandle[Any, Status]:
    """Lets an agent plan and book a trip."""
    return await client.start_workflow(
        workflow_of(framework).run,
        trip,
        id=f"{queue}-{framework}-{trip.traveler}",
        task_queue=f"{queue}-{framework}",
        result_type=Status,
    )


async def planned(handle: WorkflowHandle[Any, Status]) -> None:
    """Waits until a trip waits for its review."""
    while (await handle.query("status", result_type=Status)).state is State.PLANNING:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def review(handle: WorkflowHandle[Any, Status], approved: bool) -> None:
    """Sends what a person says of the plan."""
    await handle.execute_update("review", approved)  # pyright: ignore[reportUnknownMemberType]


async def tell() -> None:
    """The story."""
    logging.getLogger("openai.agents").setLevel(logging.ERROR)  # traces are not exported without a key
    queue = f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as plain:
        for framework in FRAMEWORKS:
            agency, client = Agency(), with_plugins(plain, framework)
            async with working(client, agency, framework, queue):
                print(f"With {framework}:")
                for traveler, then in (("Ann", "approved"), ("Bob", "rejected"), ("Cyd", "cancelled")):
                    handle = await start(client, Trip(traveler, "a weekend in Rome"), framework, queue)
                    await planned(handle)
                    try:
                        await (handle.cancel() if then == "cancelled" else review(handle, then == "approved"))
                        print(f"  {traveler}'s trip is {then}: {(await handle.result()).plan}")
                    except WorkflowFailureError as error:
                        print(f"  {traveler}'s trip is {then}: {error.cause}")
                print("  at the agency:", *agency.log(), sep="\n    ")
            agency.close()


async def work(framework: str, database: str) -> None:
    """Works until it is stopped."""
    agency = Agency(database)
    async with working(await connect(framework), agency, framework):
        print(f"working on task queue {QUEUE}-{framework}, database {database}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect(options.framework)
    if options.command == "start":
        handle = await start(client, Trip(options.traveler, options.wish), options.framework)
        print(f"started {handle.id}")
        return
    id = f"{QUEUE}-{options.framework}-{options.traveler}"
    handle = client.get_workflow_handle(id, result_type=Status)
    if options.command == "cancel":
        await handle.cancel()
    elif options.command != "status":
        await review(handle, options.command == "approve")
    print(await handle.query("status", result_type=Status))


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
    of = {name: commands.add_parser(name) for name in ("worker", "start", "approve", "reject", "cancel", "status")}
    for name, each in of.items():
        each.add_argument("--framework", choices=FRAMEWORKS, default="pydantic-ai")
        if name != "worker":
            each.add_argument("traveler")
    of["worker"].add_argument("--db", default="trips.sqlite3")
    of["start"].add_argument("wish", help="in words")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.framework, options.db))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
