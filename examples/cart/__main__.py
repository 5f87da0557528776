"""Tells of a cart that is checked out, and of one that expires."""

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

from .activities import Shop
from .models import CartData, CartStatus, Line
from .workflows import Cart

QUEUE = "carts"


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
async def working(client: Client, shop: Shop, queue: str = QUEUE) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client, task_queue=queue, workflows=[Cart], activities=shop.activities, activity_executor=threads
        ):
            yield


async def open_cart(client: Client, cart: CartData, queue: str = QUEUE) -> WorkflowHandle[Cart, CartStatus]:
    """The customer's cart: the one that is open, or a new one."""
    return await client.start_workflow(
        Cart.run,
        cart,
        id=f"{queue}-{cart.customer}",
        task_queue=queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


async def change(handle: WorkflowHandle[Cart, CartStatus], update: str, *args: object) -> None:
    """Sends an update, and prints the answer."""
    what = f"{update} {' '.join(map(str, args))}"
    try:
        answer = await handle.execute_update(update, args=args)  # pyright: ignore[reportUnknownMemberType]
        print(f"  {what}: {'done' if answer is None else answer}")
    except WorkflowUpdateFailedError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        print(f"  {what}: refused, {cause}")


async def tell() -> None:
    """The story."""
    shop, queue = Shop(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, shop, queue):
        print("Ann's cart, with a new run after every three changes:")
        handle = await open_cart(client, CartData("ann", changes_per_run=3), queue)
        await change(handle, "add", Line("1", "teapot", 2))
        await change(handle, "add", Line("1", "teapot", 2))
        await change(handle, "add", Line("2", "teapot", 4))
        await change(handle, "add", Line("3", "cup", 4))
        await change(handle, "remove", "1")
        await change(handle, "check_out", "4000")
        await change(handle, "check_out", "4242")
        show(await handle.result(), shop)

        print("Bob's cart, which expires after two seconds:")
        handle = await open_cart(client, CartData("bob", expires_after=2), queue)
        await change(handle, "add", Line("1", "teapot", 5))
        show(await handle.result(), shop)
    shop.close()


def show(status: CartStatus, shop: Shop) -> None:
    """Prints how a cart ended, and what is left in the shop."""
    left = ", ".join(f"{count} {sku}s" for sku, count in shop.rows("SELECT sku, on_hand FROM products"))
    (paid,) = shop.rows("SELECT 50000 - balance FROM cards WHERE number = '4242'")[0]
    print(f"{status.state.value}. Left: {left}. Paid so far: {paid}.\n")


async def work(database: str) -> None:
    """Works until it is stopped."""
    shop = Shop(database)
    async with working(await connect(), shop):
        print(f"working on task queue {QUEUE}, database {database}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    if options.command == "add":
        handle = await open_cart(client, CartData(options.customer))
        await change(handle, "add", Line(options.id, options.sku, options.quantity))
        return
    handle = client.get_workflow_handle_for(Cart.run, f"{QUEUE}-{options.customer}")
    if options.command == "remove":
        await change(handle, "remove", options.id)
    elif options.command == "check-out":
        await change(handle, "check_out", options.card)
    print(await handle.query(Cart.status))


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
    commands.add_parser("worker", help="run a worker").add_argument("--db", default="carts.sqlite3")
    for name in ("add", "remove", "check-out", "status"):
        commands.add_parser(name, help=f"{name} (a line of) a customer's cart").add_argument("customer")
    for name in ("add", "remove"):
        commands.choices[name].add_argument("id", help="names the line; each is used once")
    commands.choices["add"].add_argument("sku", help="teapot or cup")
    commands.choices["add"].add_argument("--quantity", type=int, default=1)
    commands.choices["check-out"].add_argument("--card", default="4242", help="4242 has money, 4000 has none")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.db))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
