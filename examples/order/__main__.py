"""Tells of orders that are shipped, declined by the card, and rejected by a person: `python -m examples.order`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_saga.plugin import SagaPlugin

from .activities import Shop
from .models import STATUS, Line, Order, OrderStatus, Review, describe
from .starter import orders_in, place_order
from .store import Store
from .worker import build_worker, connect, run_program
from .workflows import OrderWorkflow


async def tell(client: Client, store: Store, threads: Executor, *, listed: bool) -> None:
    """Runs the orders and prints the shop's books after each."""
    # A server that was there before may know orders and workers of an earlier run.
    run_id = uuid4().hex[:6]
    task_queue = f"orders-{run_id}"
    store.add_samples()
    print(f"The shop opens.\n{store.table()}\n")
    async with build_worker(client, Shop(store), threads, task_queue):
        lines = [Line("teapot", 1), Line("cup", 4)]
        happy = Order(f"{run_id}-1", "ann@example.com", "4242", lines)
        handle = await place_order(client, happy, task_queue)
        # May come at any moment: the order keeps it until it has use for it.
        await handle.signal(OrderWorkflow.shipment_ready, "TRACK-1")
        print(f"Order {happy.id}: {describe(await handle.result())}")
        await show(store, mail="SHIPPED")

        declined = Order(f"{run_id}-2", "bob@example.com", "4000", [Line("teapot", 2)])
        handle = await place_order(client, declined, task_queue)
        print(f"Order {declined.id}: {describe(await handle.result())}")
        await show(store, mail="PAYMENT_DECLINED")

        dear = Order(f"{run_id}-3", "cyd@example.com", "4242", [Line("teapot", 4)], review_over=50_00)
        handle = await place_order(client, dear, task_queue, listed=listed)
        await until(lambda: bool(store.rows("SELECT 1 FROM outbox WHERE instr(text, 'REVIEWING')")))
        if listed:
            await asyncio.sleep(1)  # the list is a little behind
            print("Listed with the status REVIEWING:", *await orders_in(client, OrderStatus.REVIEWING))
        await handle.execute_update("review", Review(approved=False, reviewer="eve"))
        print(f"Order {dear.id}: {describe(await handle.result())}")
        await show(store, mail="REJECTED")


async def show(store: Store, mail: str) -> None:
    """Prints the books, once the last mail has gone out: it has a workflow of its own."""
    await until(lambda: bool(store.rows("SELECT 1 FROM outbox WHERE instr(text, ?)", mail)))
    print(f"{store.table()}\n")


async def until(check: Callable[[], bool]) -> None:
    """Waits until it is so, for ten seconds at most."""
    for _ in range(100):
        if check():
            break
        await asyncio.sleep(0.1)


@asynccontextmanager
async def server() -> AsyncGenerator[Client]:
    """The server that TEMPORAL_ADDRESS names; else one that runs as long as the story."""
    if os.environ.get("TEMPORAL_ADDRESS"):
        yield await connect()
        return
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    cli = os.environ.get("TEMPORAL_CLI") or shutil.which("temporal", path=path)  # if None, the SDK downloads one
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=cli,
        dev_server_log_level="error",
        dev_server_extra_args=["--search-attribute", f"{STATUS.name}=Keyword"],
        plugins=[SagaPlugin(classify=True)],
    ) as env:
        yield env.client


async def run(database: Path) -> None:
    """Tells the story."""
    async with server() as client:
        listed = not os.environ.get("TEMPORAL_ADDRESS")  # another server need not know the search attribute
        with ThreadPoolExecutor() as threads:
            await tell(client, Store(database), threads, listed=listed)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order",
        description="Tells of orders that are shipped, declined by the card, and rejected by a person.",
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_program(run(Path(folder) / "orders.db"))


if __name__ == "__main__":
    main()
