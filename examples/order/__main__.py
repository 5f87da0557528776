"""Tells of one order that is shipped and one whose card is declined: `python -m examples.order`."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from temporalio.client import Client

from examples.dev_server import dev_server
from examples.order.activities import Shop
from examples.order.models import Line, Order
from examples.order.starter import describe, place_order
from examples.order.store import Store
from examples.order.worker import build_worker
from examples.order.workflows import OrderWorkflow
from temporal_saga.plugin import SagaPlugin


async def tell(client: Client, store: Store, threads: Executor) -> None:
    """Runs both orders and prints the shop's books after each."""
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
        await show(store, mail=f"{happy.id}: SHIPPED")

        declined = Order(f"{run_id}-2", "bob@example.com", "4000", [Line("teapot", 2)])
        handle = await place_order(client, declined, task_queue)
        print(f"Order {declined.id}: {describe(await handle.result())}")
        await show(store, mail=f"{declined.id}: PAYMENT_DECLINED")


async def show(store: Store, mail: str) -> None:
    """Prints the books, once the last mail has gone out: it has a workflow of its own."""
    sent = "SELECT 1 FROM outbox WHERE instr(text, ?)"
    for _ in range(100):
        if store.rows(sent, mail):
            break
        await asyncio.sleep(0.1)
    print(f"{store.table()}\n")


async def run(database: Path) -> None:
    """Starts a server (or uses that of TEMPORAL_ADDRESS) and tells the story."""
    async with dev_server(plugins=[SagaPlugin(classify=True)]) as env:
        with ThreadPoolExecutor() as threads:
            await tell(env.client, Store(database), threads)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order",
        description="Tells of one order that is shipped and one whose card is declined.",
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "orders.db"))


if __name__ == "__main__":
    main()
