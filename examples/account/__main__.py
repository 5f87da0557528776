"""Tells of an account: orders that are done, refused, undone, and asked for twice."""

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

from temporalio.client import Client, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Bank
from .models import AccountData, Order
from .workflows import Account

QUEUE = "accounts"


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
async def working(client: Client, bank: Bank, queue: str = QUEUE) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client, task_queue=queue, workflows=[Account], activities=bank.activities, activity_executor=threads
        ):
            yield


async def open_account(client: Client, account: AccountData, queue: str = QUEUE) -> WorkflowHandle[Account, int]:
    """The owner's account: the one that is open, or a new one."""
    return await client.start_workflow(
        Account.run,
        account,
        id=f"{queue}-{account.owner}",
        task_queue=queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def send(handle: WorkflowHandle[Account, int], update: str, order: Order) -> None:
    """Sends an order, and prints the answer and the balance."""
    try:
        answer = await handle.execute_update(update, order)  # pyright: ignore[reportUnknownMemberType]
    except WorkflowUpdateFailedError as error:
        answer = f"refused, {error.cause}"
    print(f"  {update} {order.id}, {order.amount}, card {order.card}: {answer}")
    print(f"    balance: {await handle.query(Account.balance)}")


async def tell() -> None:
    """The story."""
    bank, queue = Bank(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, bank, queue):
        print("Ann's account, with a new run after every two orders:")
        handle = await open_account(client, AccountData("ann", orders_per_run=2), queue)
        await send(handle, "bring_in", Order("1", "4242", 100_00))
        await send(handle, "bring_in", Order("1", "4242", 100_00))
        await send(handle, "pay_out", Order("2", "4242", 30_00))
        await send(handle, "pay_out", Order("3", "4242", 300_00))
        await send(handle, "pay_out", Order("4", "4000", 10_00))
        await handle.signal(Account.close)
        print(f"  closed with {await handle.result()}")
        print("The journal:", *bank.rows("SELECT * FROM journal"), sep="\n  ")
    bank.close()


async def work(database: str) -> None:
    """Works until it is stopped."""
    bank = Bank(database)
    async with working(await connect(), bank):
        print(f"working on task queue {QUEUE}, database {database}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    handle = await open_account(await connect(), AccountData(options.owner))
    if options.command in ("bring-in", "pay-out"):
        order = Order(options.order, options.card, options.amount)
        await send(handle, options.command.replace("-", "_"), order)
    elif options.command == "close":
        await handle.signal(Account.close)
        print(f"closed with {await handle.result()}")
    else:
        print(await handle.query(Account.balance))


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
    commands.add_parser("worker", help="run a worker").add_argument("--db", default="accounts.sqlite3")
    of = {name: commands.add_parser(name) for name in ("bring-in", "pay-out", "balance", "close")}
    for each in of.values():
        each.add_argument("owner")
    for name in ("bring-in", "pay-out"):
        of[name].add_argument("order", help="names the order; who asks twice gets the same answer")
        of[name].add_argument("amount", type=int, help="in cents")
        of[name].add_argument("--card", default="4242", help="4242 has money, 4000 is closed")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.db))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
