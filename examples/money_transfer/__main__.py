"""One transfer from end to end: a server, a worker and the ledger before and after."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from examples.dev_server import dev_server
from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger
from examples.money_transfer.models import Transfer, format_amount, to_minor_units
from examples.money_transfer.starter import start
from examples.money_transfer.worker import DATABASE, TASK_QUEUE, build_worker
from temporal_saga.plugin import SagaPlugin


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
    async with dev_server(plugins=[SagaPlugin(classify=True)]) as env:
        with ThreadPoolExecutor() as threads:
            async with build_worker(env.client, Bank(ledger), threads, task_queue):
                handle = await start(env.client, transfer, task_queue)
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
        asyncio.run(run(ledger, amount, frozen=arguments.freeze))


if __name__ == "__main__":
    main()
