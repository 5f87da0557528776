"""Tells of a payment whose capture a person has to look at, and of its refunds."""

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
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Cashier
from .models import Finding, Order, Refund, State, Status
from .provider import Provider
from .workflows import Payment

QUEUE = "payments"


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
async def working(client: Client, cashier: Cashier, queue: str = QUEUE) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client, task_queue=queue, workflows=[Payment], activities=cashier.activities, activity_executor=threads
        ):
            yield


async def start(client: Client, order: Order, queue: str = QUEUE) -> WorkflowHandle[Payment, Status]:
    """Takes the money for an order, once for each order."""
    return await client.start_workflow(
        Payment.run,
        order,
        id=f"{queue}-{order.id}",
        task_queue=queue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )


async def unknown(handle: WorkflowHandle[Payment, Status]) -> list[Finding]:
    """The steps whose outcome is not known, and what the provider says of them."""
    # By name: of the checkers we run, only mypy understands the SDK's types for updates.
    found: list[Finding] = await handle.execute_update(  # pyright: ignore[reportUnknownMemberType]
        "reconcile", result_type=list[Finding]
    )
    return found


async def send(handle: WorkflowHandle[Payment, Status], update: str, *args: object) -> None:
    """Sends an update, and prints the answer."""
    try:
        answer = await handle.execute_update(update, args=args)  # pyright: ignore[reportUnknownMemberType]
        print(f"  {update} {args[0]}: {'done' if answer is None else answer}")
    except WorkflowUpdateFailedError as error:
        print(f"  {update} {args[0]}: refused, {error.cause}")


async def tell() -> None:
    """The story."""
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)  # else each lost reply is a stack trace
    cashier, queue = Cashier(Provider()), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, cashier, queue):
        for action in ("retry", "give_up"):
            print(f"A payment in two parts. The replies to the first capture are lost; Ann says {action}:")
            cashier.provider.lost_replies = 3
            handle = await start(client, Order(action, "4242", [30_00, 20_00], refund_within=5), queue)
            while not (findings := await unknown_if_open(handle)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            print(f"  {findings[0].step} waits for a person; the provider says: {findings[0].provider_says}")
            await send(handle, "saga_resolve", findings[0].key, action, "ann", f"saw: {findings[0].provider_says}")
            if action == "retry":
                while (await handle.query(Payment.status)).state is not State.SETTLED:  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
                await send(handle, "refund", Refund("r1", 10_00))
                await send(handle, "refund", Refund("r1", 10_00))
                await send(handle, "refund", Refund("r2", 40_00))
            try:
                print(f"  {await handle.result()}")
            except WorkflowFailureError as error:
                print(f"  failed: {error.cause}")
            operations = cashier.provider.rows("SELECT kind, amount, state FROM operations ORDER BY rowid")
            print("  at the provider:", *operations, sep="\n    ")
    cashier.close()


async def unknown_if_open(handle: WorkflowHandle[Payment, Status]) -> list[Finding]:
    """The same; nothing if nothing is authorized yet."""
    try:
        return await unknown(handle)
    except WorkflowUpdateFailedError:
        return []


async def work(database: str) -> None:
    """Works until it is stopped."""
    cashier = Cashier(Provider(f"{database}-provider"), database)
    async with working(await connect(), cashier):
        print(f"working on task queue {QUEUE}, database {database}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    handle: WorkflowHandle[Payment, Status] = client.get_workflow_handle(f"{QUEUE}-{options.id}", result_type=Status)
    if options.command == "start":
        handle = await start(client, Order(options.id, options.card, options.parts))
        print(f"started {handle.id}")
        return
    if options.command == "reconcile":
        print(*await unknown(handle), sep="\n")
    elif options.command == "resolve":
        await send(handle, "saga_resolve", options.key, options.action, options.who, options.why)
    elif options.command == "refund":
        await send(handle, "refund", Refund(options.refund, options.amount))
    print(await handle.query(Payment.status))


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
    commands.add_parser("worker", help="run a worker").add_argument("--db", default="payments.sqlite3")
    of = {name: commands.add_parser(name) for name in ("start", "status", "reconcile", "resolve", "refund")}
    for each in of.values():
        each.add_argument("id", help="the order's number")
    of["start"].add_argument("parts", type=int, nargs="+", help="amounts in cents")
    of["start"].add_argument("--card", default="4242", help="4242 has money, 4000 has none")
    of["resolve"].add_argument("key", help="as reconcile shows it")
    of["resolve"].add_argument("action", choices=["retry", "give_up"])
    of["resolve"].add_argument("--who", required=True)
    of["resolve"].add_argument("--why", required=True)
    of["refund"].add_argument("refund", help="names the refund; each is used once")
    of["refund"].add_argument("amount", type=int, help="in cents")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.db))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
