"""Tells of orders that are shipped, declined by the card, and rejected by a person: `python -m examples.order`."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from temporalio.client import Client

from examples.dev_server import dev_server
from examples.order.activities import Shop
from examples.order.models import STATUS, Line, Order, OrderStatus, Review, describe
from examples.order.starter import orders_in, place_order
from examples.order.store import Store
from examples.order.worker import build_worker
from examples.order.workflows import OrderWorkflow
from temporal_saga.plugin import SagaPlugin


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
        await handle.execute_update(OrderWorkflow.review, Review(approved=False, reviewer="eve"))
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


async def run(database: Path) -> None:
    """Starts a server (or uses that of TEMPORAL_ADDRESS) and tells the story."""
    ours = not os.environ.get("TEMPORAL_ADDRESS")  # another server need not know the search attribute
    attribute = ["--search-attribute", f"{STATUS.name}=Keyword"] if ours else []
    async with dev_server(plugins=[SagaPlugin(classify=True)], extra_args=attribute) as env:
        with ThreadPoolExecutor() as threads:
            await tell(env.client, Store(database), threads, listed=ours)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order",
        description="Tells of orders that are shipped, declined by the card, and rejected by a person.",
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "orders.db"))


if __name__ == "__main__":
    main()
