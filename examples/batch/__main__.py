"""Tells of a payout in which some transfers fail, and of one that is paid as a whole or not at all."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sysconfig
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Ledger
from .models import Batch, Summary
from .workflows import PayAll, PayAllOrNothing, PayOne

QUEUE = "payouts"


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


@asynccontextmanager
async def working(client: Client, ledger: Ledger, queue: str = QUEUE) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client,
            task_queue=queue,
            workflows=[PayAll, PayAllOrNothing, PayOne],
            activities=ledger.activities,
            activity_executor=threads,
        ):
            yield


async def start(
    client: Client, batch: Batch, *, all_or_nothing: bool = False, queue: str = QUEUE
) -> WorkflowHandle[Any, Summary]:
    """Starts a payout, which is made once."""
    return await client.start_workflow(
        PayAllOrNothing.run if all_or_nothing else PayAll.run,
        batch,
        id=f"{queue}-{batch.payout}",
        task_queue=queue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )


async def tell() -> None:
    """The story."""
    ledger, queue = Ledger(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, ledger, queue):
        march, april = f"march-{uuid4().hex[:6]}", f"april-{uuid4().hex[:6]}"
        ledger.prepare(march, 40)
        print("40 transfers, 2 of them to closed accounts, in batches of 20:")
        handle = await start(client, Batch(march, 0, 40, leaf=20, at_once=10), queue=queue)
        show(await handle.result(), ledger)
        ledger.prepare(april, 20)
        print("20 transfers, all or nothing:")
        handle = await start(client, Batch(april, 0, 20, at_once=10), all_or_nothing=True, queue=queue)
        show(await handle.result(), ledger)
        print("Messages to the admin:", *[text for (text,) in ledger.rows("SELECT text FROM messages")], sep="\n  ")
    ledger.close()


def show(summary: Summary, ledger: Ledger) -> None:
    """Prints how a payout ended."""
    ((left,),) = ledger.rows("SELECT balance FROM accounts WHERE name = 'funds'")
    print(f"  {summary.paid} paid, {summary.failed} failed; {left} left in the funds\n")


async def work(database: str, transfers: int) -> None:
    """Works until it is stopped."""
    ledger = Ledger(database)
    payout = f"p-{uuid4().hex[:6]}"
    ledger.prepare(payout, transfers)
    async with working(await connect(), ledger):
        print(
            f"working on task queue {QUEUE}, database {database}; to pay: {payout}, {transfers} transfers", flush=True
        )
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    if options.command == "start":
        batch = Batch(options.payout, 0, options.count)
        handle = await start(client, batch, all_or_nothing=options.all_or_nothing)
        print(f"started {handle.id}")
    else:
        handle = client.get_workflow_handle(f"{QUEUE}-{options.payout}", result_type=Summary)
        print(await handle.result())


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
        description=f"{__doc__} Without a command: tells the story, with a server and a worker of its own."
    )
    commands = parser.add_subparsers(dest="command")
    worker = commands.add_parser("worker", help="write down a payout, and run a worker")
    worker.add_argument("--db", default="payouts.sqlite3")
    worker.add_argument("--transfers", type=int, default=100)
    begin = commands.add_parser("start", help="start a payout")
    begin.add_argument("payout", help="as the worker says")
    begin.add_argument("count", type=int)
    begin.add_argument("--all-or-nothing", action="store_true")
    commands.add_parser("result", help="wait for the summary").add_argument("payout")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.db, options.transfers))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
