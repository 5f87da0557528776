"""One transfer from end to end: a server, a worker and the ledger before and after."""

from __future__ import annotations

import argparse
import os
import shutil
import sysconfig
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from temporal_saga.plugin import SagaPlugin

from .activities import Bank
from .ledger import Ledger
from .models import Transfer, format_amount, to_minor_units
from .starter import start
from .worker import DATABASE, TASK_QUEUE, build_worker, connect, run_program


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


async def run(ledger: Ledger, amount: int, *, frozen: bool) -> None:
    """Transfers the amount from alice to bob."""
    ledger.open_account("alice", "EUR", to_minor_units("1000.00", "EUR"))
    ledger.open_account("bob", "EUR", to_minor_units("50.00", "EUR"))
    ledger.freeze("bob", frozen)
    transfer = Transfer(uuid4().hex[:8], "alice", "bob", amount, "EUR")
    # The server may have other workers, whose ledger is another one.
    task_queue = f"{TASK_QUEUE}-{transfer.id}"

    print(f"Before, in {ledger.where}:\n{ledger.table()}\n")
    print(f"Transfer of {format_amount(amount, 'EUR')} from alice to bob")
    async with server() as client:
        with ThreadPoolExecutor() as threads:
            async with build_worker(client, Bank(ledger), threads, task_queue):
                handle = await start(client, transfer, task_queue)
                result = await handle.result()
    print(f"{result.status.value}: {result.reason or f'receipt {result.receipt}'}\n")
    print(f"After:\n{ledger.table()}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.money_transfer",
        description="Run one transfer with a Temporal server and a worker of its own.",
        epilog="The ledger is on the PostgreSQL that DATABASE_URL names, and stays there; "
        "without it, it is a SQLite file that is deleted at the end.",
    )
    parser.add_argument("--amount", default="250.00", help="in EUR; alice has 1,000.00 at first")
    parser.add_argument(
        "--freeze", action="store_true", help="freeze bob's account: the deposit is refused, the withdrawal is returned"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            amount = to_minor_units(arguments.amount, "EUR")
            ledger = Ledger(os.environ.get("DATABASE_URL") or Path(directory) / DATABASE)
        except ValueError as error:
            parser.error(str(error))
        run_program(run(ledger, amount, frozen=arguments.freeze))


if __name__ == "__main__":
    main()
