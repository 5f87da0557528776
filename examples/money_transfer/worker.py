"""A worker for transfers, as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Bank
from .ledger import Ledger
from .models import to_minor_units
from .workflows import MoneyTransfer

TASK_QUEUE = "money-transfer"
DATABASE = "bank.sqlite3"


def build_worker(client: Client, bank: Bank, threads: Executor, task_queue: str = TASK_QUEUE) -> Worker:
    """A worker for the workflow and the bank's activities, which block and so run in threads."""
    return Worker(
        client, task_queue=task_queue, workflows=[MoneyTransfer], activities=bank.activities, activity_executor=threads
    )


async def connect() -> Client:
    """A client for the server that the environment names (`TEMPORAL_ADDRESS` and the like).

    The plugin goes on the client; workers made from it have it too. It classifies: a database that
    is locked or restarts is a failure to try again after, and no bug.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=[SagaPlugin(classify=True)])


async def run(database: str, accounts: Sequence[Sequence[str]], task_queue: str) -> None:
    """Opens the accounts that are new, then works until it is stopped."""
    ledger = Ledger(database)
    for name, currency, balance in accounts:
        ledger.open_account(name, currency, to_minor_units(balance, currency))
    client = await connect()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    with ThreadPoolExecutor() as threads:
        async with build_worker(client, Bank(ledger), threads, task_queue):
            print(f"Working on task queue {task_queue}, ledger {ledger.where}. Stop with Ctrl-C.", flush=True)
            await stopped.wait()


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
        prog="python -m examples.money_transfer.worker",
        description="Run a worker for transfers.",
        epilog="The server is the one that TEMPORAL_ADDRESS names (default localhost:7233).",
    )
    where = os.environ.get("DATABASE_URL") or DATABASE
    parser.add_argument("--db", default=where, help=f"ledger file or postgresql://...; else DATABASE_URL or {DATABASE}")
    parser.add_argument("--task-queue", default=TASK_QUEUE)
    parser.add_argument(
        "--open",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "CURRENCY", "BALANCE"),
        help="open an account unless it exists, such as: --open alice EUR 1000.00",
    )
    arguments = parser.parse_args()
    try:
        run_program(run(arguments.db, arguments.open, arguments.task_queue))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
