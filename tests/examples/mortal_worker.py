"""A worker of the bank's that is killed in its first withdrawal, before or after the commit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from temporalio import activity
from temporalio.worker import Worker

from examples.money_transfer.activities import Bank
from examples.money_transfer.database import Connection
from examples.money_transfer.ledger import Ledger, Posting
from examples.money_transfer.models import Transfer
from examples.money_transfer.worker import connect
from examples.money_transfer.workflows import MoneyTransfer


class DyingLedger(Ledger):
    """Dies when an entry has been written, in its transaction."""

    def post(self, db: Connection, key: str, memo: str, *postings: Posting) -> int:
        super().post(db, key, memo, *postings)
        return die()


class DyingBank(Bank):
    """Dies when the withdrawal has been committed, before it says so."""

    @activity.defn
    def withdraw(self, transfer: Transfer) -> int:
        super().withdraw(transfer)
        return die()


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")


async def run(database: str, task_queue: str, moment: str) -> None:
    bank = Bank(DyingLedger(database)) if moment == "before" else DyingBank(Ledger(database))
    with ThreadPoolExecutor() as threads:
        worker = Worker(
            await connect(),
            task_queue=task_queue,
            workflows=[MoneyTransfer],
            activities=bank.activities,
            activity_executor=threads,
            max_cached_workflows=0,  # else the server would wait for it, 10 s, before it asks another
        )
        await worker.run()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
