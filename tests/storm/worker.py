"""A worker process of the storm: python -m tests.storm.worker <setting>. It starts when it is told to, on its input."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger, Posting
from examples.money_transfer.models import Transfer
from examples.money_transfer.workflows import MoneyTransfer
from examples.order.activities import Shop
from examples.order.store import Store
from examples.order.workflows import Notify, OrderWorkflow
from temporal_saga import current_step
from temporal_saga.plugin import SagaPlugin

from .faults import Faults, SlowRunner
from .processes import ATTRIBUTE, Setting, insist
from .workflows import ByHandTransfer, ParkingTransfer

QUEUE = "storm"
WORKFLOWS: list[type] = [ParkingTransfer, ByHandTransfer, MoneyTransfer, OrderWorkflow, Notify]


class KeylessBank(Bank):
    """A provider that knows no keys: each call makes an entry."""

    def _post(self, transfer: Transfer, *postings: Posting) -> int:
        with self.ledger.transaction() as db:
            return self.ledger.post(db, str(uuid4()), f"{current_step().name} {transfer.id}", *postings)


def runner(slow: bool) -> SandboxedWorkflowRunner:
    """A sandbox that passes the modules of the workflows through."""
    passed = SandboxRestrictions.default.with_passthrough_modules("tests.storm", "examples")
    return SlowRunner(restrictions=passed) if slow else SandboxedWorkflowRunner(restrictions=passed)


async def run(setting: Setting) -> None:
    plugin = SagaPlugin(classify=True, search_attribute=ATTRIBUTE)
    client = await insist(lambda: Client.connect(setting.address, plugins=[plugin]), RuntimeError)
    bank = (Bank if setting.keys else KeylessBank)(Ledger(setting.ledger))
    shop = Shop(Store(Path(setting.directory) / "shop.sqlite3"))

    async def work() -> None:
        await Worker(
            client,
            task_queue=QUEUE,
            workflows=WORKFLOWS,
            activities=[*bank.activities, *shop.activities],
            activity_executor=ThreadPoolExecutor(24),
            max_concurrent_activities=24,
            interceptors=[Faults(setting)],
            workflow_runner=runner(setting.pauses),
            sticky_queue_schedule_to_start_timeout=timedelta(milliseconds=500),
        ).run()

    await insist(work, RuntimeError, seconds=3600)


def main() -> None:
    setting = json.loads(sys.argv[1])
    setting["refused"] = tuple(setting["refused"])
    if not sys.stdin.readline():
        return
    # The input ends with the process that started this one.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    asyncio.run(run(Setting(**setting)))


if __name__ == "__main__":
    main()
