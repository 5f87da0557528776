"""Tells of a rent that a schedule pays and of a gym that a loop pays: changed, paused, begun anew, and stopped."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sysconfig
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from . import schedule
from .activities import Bank
from .models import DAY, LoopState, StandingOrder
from .workflows import PayForever, PayPeriod

QUEUE = "standing-orders"


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
            client,
            task_queue=queue,
            workflows=[PayPeriod, PayForever],
            activities=bank.activities,
            activity_executor=threads,
        ):
            yield


async def start_loop(client: Client, state: LoopState, queue: str = QUEUE) -> WorkflowHandle[PayForever, LoopState]:
    """Pays from the next period on, or from the one that the state names."""
    return await client.start_workflow(PayForever.run, state, id=f"{queue}-loop-{state.order.id}", task_queue=queue)


async def change_amount(handle: WorkflowHandle[PayForever, LoopState], amount: int) -> None:
    """Changes the loop's amount, from the next payment on."""
    await handle.execute_update("change_amount", amount)  # pyright: ignore[reportUnknownMemberType]


async def paid(bank: Bank, order: str, count: int) -> None:
    """Waits until so many periods are paid."""
    while len(bank.rows(f"SELECT 1 FROM periods WHERE standing_order = '{order}'")) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def show(bank: Bank, order: str) -> None:
    """Prints what was paid, by period."""
    found: list[Any] = bank.rows(f"SELECT period, amount FROM periods WHERE standing_order = '{order}' ORDER BY period")
    first = found[0][0]
    print("  paid, by second:", ", ".join(f"{period - first}: {amount}" for period, amount in found))


async def tell() -> None:
    """The story. A period is a second."""
    bank, queue = Bank(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, bank, queue):
        print("The rent, by a schedule:")
        rent = await schedule.create(client, StandingOrder("rent", "ann", "landlord", 100, every=1), queue)
        await paid(bank, "rent", 1)
        print("  the amount is changed to 150")
        await schedule.change_amount(client, "rent", queue, 150)
        await paid(bank, "rent", 3)
        print("  paused for 3 s; then the last 5 s are made up for, of which 2 are paid")
        await rent.pause(note="Ann is on holiday")
        await asyncio.sleep(3)
        await schedule.make_up_for(rent, datetime.now(timezone.utc) - timedelta(seconds=5))
        await rent.unpause()
        await paid(bank, "rent", 8)
        await rent.delete()
        show(bank, "rent")

        print("The gym, by a loop:")
        state = LoopState(StandingOrder("gym", "ann", "gym", 30, every=1), periods_per_run=2)
        gym = await start_loop(client, state, queue)
        await paid(bank, "gym", 1)
        print("  the amount is changed to 40")
        await change_amount(gym, 40)
        await paid(bank, "gym", 3)
        await gym.terminate("an operator's mistake")
        ((first,),) = bank.rows("SELECT min(period) FROM periods WHERE standing_order = 'gym'")
        assert isinstance(first, int)
        print("  terminated, and begun anew from its first period, until 5 are paid")
        order = StandingOrder("gym", "ann", "gym", 40, every=1, payments=5)
        print(f"  {await (await start_loop(client, LoopState(order, next_period=first), queue)).result()}")
        show(bank, "gym")
        print("Accounts:", *bank.rows("SELECT * FROM accounts"), sep="\n  ")
        await asyncio.sleep(1)  # what the schedule had begun
    bank.close()


async def work(database: str) -> None:
    """Works until it is stopped."""
    bank = Bank(database)
    async with working(await connect(), bank):
        print(f"working on task queue {QUEUE}, database {database}", flush=True)
        await asyncio.Event().wait()


async def command_schedule(client: Client, options: argparse.Namespace) -> None:
    """Does what the command line asks of a schedule."""
    if options.command == "start":
        order = StandingOrder(options.id, "ann", options.creditor, options.amount, options.every)
        print(f"started {(await schedule.create(client, order, QUEUE)).id}")
        return
    handle = client.get_schedule_handle(f"{QUEUE}-{options.id}")
    if options.command == "change":
        await schedule.change_amount(client, options.id, QUEUE, options.amount)
    elif options.command == "pause":
        await handle.pause()
    elif options.command == "resume":
        await handle.unpause()
    elif options.command == "make-up-for":
        await schedule.make_up_for(handle, datetime.now(timezone.utc) - timedelta(days=options.days))
    elif options.command == "stop":
        await handle.delete()
        return
    found = await handle.describe()
    print(f"paused: {found.schedule.state.paused}, payments begun: {found.info.num_actions}")


async def command_loop(client: Client, options: argparse.Namespace) -> None:
    """Does what the command line asks of a loop."""
    if options.command == "start":
        order = StandingOrder(options.id, "ann", options.creditor, options.amount, options.every)
        print(f"started {(await start_loop(client, LoopState(order))).id}")
        return
    handle: WorkflowHandle[PayForever, LoopState] = client.get_workflow_handle(f"{QUEUE}-loop-{options.id}")
    if options.command == "change":
        await change_amount(handle, options.amount)
    elif options.command != "status":
        await handle.signal(options.command)
    print(await handle.query(PayForever.status))


def run(program: Coroutine[Any, Any, None]) -> None:
    """Runs a program, and gives the SDK's threads time to come to rest: else the interpreter may crash at its end."""

    async def rested() -> None:
        try:
            await program
        finally:
            await asyncio.sleep(0.3)  # github.com/temporalio/sdk-python/issues/300

    asyncio.run(rested())


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    await (command_schedule if options.kind == "schedule" else command_loop)(client, options)


def main() -> None:
    """Reads the command line. Without a command it tells the story."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Without a command: tells the story, with a server and a worker of its own."
    )
    kinds = parser.add_subparsers(dest="kind")
    kinds.add_parser("worker", help="run a worker").add_argument("--db", default="standing_orders.sqlite3")
    names = ["start", "change", "pause", "resume", "stop", "status"]
    for kind, commands in (("schedule", [*names, "make-up-for"]), ("loop", names)):
        of = kinds.add_parser(kind, help=f"a standing order as a {kind}").add_subparsers(dest="command", required=True)
        for name in commands:
            each = of.add_parser(name)
            each.add_argument("id", help="names the standing order")
            if name in ("start", "change"):
                each.add_argument("amount", type=int, help="in cents")
            if name == "start":
                each.add_argument("--creditor", choices=["landlord", "gym"], default="landlord")
                each.add_argument("--every", type=int, default=DAY, help="a period, in seconds; a day by default")
            if name == "make-up-for":
                each.add_argument("days", type=int, help="so many days back")
    options = parser.parse_args()
    if options.kind is None:
        run(tell())
    elif options.kind == "worker":
        run(work(options.db))
    else:
        run(command(options))


if __name__ == "__main__":
    main()
