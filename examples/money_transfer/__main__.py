"""One transfer from end to end: a server, a worker and the ledger before and after."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from examples.dev_server import dev_server
from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger
from examples.money_transfer.models import Transfer, format_amount, to_minor_units
from examples.money_transfer.starter import start
from examples.money_transfer.worker import TASK_QUEUE, build_worker
from temporal_saga.plugin import SagaPlugin


async def run(amount: int, *, frozen: bool) -> None:
    """Transfers the amount from alice to bob."""
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "bank.sqlite3")
        ledger.open_account("alice", "EUR", to_minor_units("1000.00", "EUR"))
        ledger.open_account("bob", "EUR", to_minor_units("50.00", "EUR"))
        if frozen:
            ledger.freeze("bob")
        transfer = Transfer(uuid4().hex[:8], "alice", "bob", amount, "EUR")
        # The server may have other workers, whose ledger is another one.
        task_queue = f"{TASK_QUEUE}-{transfer.id}"

        print(f"Before:\n{ledger.table()}\n")
        print(f"Transfer of {format_amount(amount, 'EUR')} from alice to bob")
        async with dev_server(plugins=[SagaPlugin()]) as env:
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
    )
    parser.add_argument("--amount", default="250.00", help="in EUR; alice has 1,000.00")
    parser.add_argument(
        "--freeze", action="store_true", help="freeze bob's account: the deposit is refused, the withdrawal is returned"
    )
    arguments = parser.parse_args()
    try:
        amount = to_minor_units(arguments.amount, "EUR")
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(run(amount, frozen=arguments.freeze))


if __name__ == "__main__":
    main()
