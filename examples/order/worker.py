"""The process that runs orders: `python -m examples.order.worker`."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Shop
from .store import Store
from .workflows import DailyReport, Notify, OrderWorkflow

TASK_QUEUE = "orders"
DATABASE = "orders.db"


async def connect() -> Client:
    """Connects to the server that the environment names (`TEMPORAL_ADDRESS` and the like)."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    # The plugin goes on to the workers of this client. It classifies: a file that is locked is a
    # failure to try again after, and no bug.
    return await Client.connect(**config, plugins=[SagaPlugin(classify=True)])


def build_worker(client: Client, shop: Shop, threads: Executor, task_queue: str = TASK_QUEUE) -> Worker:
    """A worker for all workflows, and for the shop's activities, which block: they need threads."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[OrderWorkflow, Notify, DailyReport],
        activities=shop.activities,
        activity_executor=threads,
    )


async def run(database: str, task_queue: str) -> None:
    """Works until SIGINT or SIGTERM."""
    store = Store(database)
    store.add_samples()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect()
    with ThreadPoolExecutor() as threads:
        async with build_worker(client, Shop(store), threads, task_queue):
            print(f"working on task queue {task_queue}, database {database}", flush=True)
            await stop.wait()


def run_program(program: Coroutine[Any, Any, None]) -> None:
    """Runs a program, and gives the SDK's threads time to come to rest: else the interpreter may crash at its end."""

    async def rested() -> None:
        try:
            await program
        finally:
            await asyncio.sleep(0.3)  # github.com/temporalio/sdk-python/issues/300

    asyncio.run(rested())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order.worker",
        description="Runs orders until it is stopped. TEMPORAL_ADDRESS names the server.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--db", default=DATABASE, help="the shop's SQLite file; made if missing")
    parser.add_argument("--task-queue", default=TASK_QUEUE, help="the task queue")
    options = parser.parse_args()
    run_program(run(options.db, options.task_queue))


if __name__ == "__main__":
    main()
