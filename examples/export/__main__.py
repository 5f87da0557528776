"""Tells of an export whose worker dies half way, and of one that is cancelled half way."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Exporter
from .models import Export
from .workflows import ExportWorkflow

QUEUE = "exports"


async def connect() -> Client:
    """Connects to the server that the environment names (`TEMPORAL_ADDRESS` and the like)."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=[SagaPlugin(classify=True)])


@asynccontextmanager
async def server() -> AsyncGenerator[Client]:
    """The server that TEMPORAL_ADDRESS names; else one that runs as long as the story."""
    if os.environ.get("TEMPORAL_ADDRESS"):
        yield await connect()
        return
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    cli = os.environ.get("TEMPORAL_CLI") or shutil.which("temporal", path=path)  # if None, the SDK downloads one
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=cli, dev_server_log_level="error", plugins=[SagaPlugin(classify=True)]
    ) as env:
        yield env.client


def working(client: Client, exporter: Exporter, queue: str = QUEUE) -> Worker:
    """A worker."""
    return Worker(
        client,
        task_queue=queue,
        workflows=[ExportWorkflow],
        activities=exporter.activities,
        # By default the worker holds heartbeats back for 80 % of the heartbeat timeout. If it dies, the pages of these
        # heartbeats are written again.
        max_heartbeat_throttle_interval=timedelta(milliseconds=500),
        # A workflow task waits this long for the worker that has the run in its cache, and that worker may be dead.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=2),
    )


async def start(client: Client, export: Export, queue: str = QUEUE) -> WorkflowHandle[ExportWorkflow, str]:
    """Starts an export. A name is exported once at a time."""
    return await client.start_workflow(ExportWorkflow.run, export, id=f"{queue}-{export.name}", task_queue=queue)


@asynccontextmanager
async def worker_process(client: Client, directory: Path, queue: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A worker in a process of its own, which is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __package__ or "export", "worker", "--directory", str(directory), "--queue", queue),
        env={**os.environ, "TEMPORAL_ADDRESS": client.service_client.config.target_host},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until_pages(exporter: Exporter, count: int) -> None:
    """Waits for so many pages."""
    while exporter.pages() < count:  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def tell() -> None:
    """The story."""
    with tempfile.TemporaryDirectory() as name:
        directory, queue = Path(name), f"{QUEUE}-{uuid4().hex[:6]}"
        exporter = Exporter(directory)
        async with server() as client:
            async with worker_process(client, directory, queue):
                handle = await start(client, Export("sales", 40), queue)
                await until_pages(exporter, 20)
            print(f"The worker was killed; there are {exporter.pages()} pages.")
            async with worker_process(client, directory, queue):
                await handle.result()
                print(f"There are {exporter.pages()} pages.")
                handle = await start(client, Export("stock", 400), queue)
                await until_pages(exporter, 50)
                await handle.cancel()
                with suppress(WorkflowFailureError):
                    await handle.result()
                print(f"The other export was cancelled; there are {exporter.pages()} pages.\n")
        print(*exporter.log(), sep="\n")


async def work(directory: Path, queue: str) -> None:
    """Works until it is stopped."""
    async with working(await connect(), Exporter(directory), queue):
        print(f"working on task queue {queue}, directory {directory}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    handle: WorkflowHandle[ExportWorkflow, str] = client.get_workflow_handle(f"{QUEUE}-{options.name}", result_type=str)
    if options.command == "start":
        handle = await start(client, Export(options.name, options.pages))
        print(f"started {handle.id}")
    elif options.command == "cancel":
        await handle.cancel()
    else:
        print(f"published from {await handle.result()}")


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
    worker.add_argument("--directory", type=Path, default=Path("exports"), help="shared by all workers")
    worker.add_argument("--queue", default=QUEUE)
    of = {name: commands.add_parser(name, help=f"{name} an export") for name in ("start", "cancel", "result")}
    for each in of.values():
        each.add_argument("name")
    of["start"].add_argument("pages", type=int)
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.directory, options.queue))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
