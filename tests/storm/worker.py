"""A worker process of the storm: python -m tests.storm.worker <setting>.

It starts when a line on its input says which release of the workflows it runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
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
from .workflows import ByHandTransfer, ParkingTransfer, PreviousParkingTransfer

QUEUE = "storm"
WORKFLOWS: list[type] = [ParkingTransfer, ByHandTransfer, MoneyTransfer, OrderWorkflow, Notify]
PREVIOUS: list[type] = [PreviousParkingTransfer, *WORKFLOWS[1:]]


class KeylessBank(Bank):
    """A provider that knows no keys: each call makes an entry."""

    def _post(self, transfer: Transfer, *postings: Posting) -> int:
        with self.ledger.transaction() as db:
            return self.ledger.post(db, str(uuid4()), f"{current_step().name} {transfer.id}", *postings)


def runner(slow: bool) -> SandboxedWorkflowRunner:
    """A sandbox that passes the modules of the workflows through."""
    passed = SandboxRestrictions.default.with_passthrough_modules("tests.storm", "examples")
    return SlowRunner(restrictions=passed) if slow else SandboxedWorkflowRunner(restrictions=passed)


async def run(setting: Setting, release: str) -> None:
    plugin = SagaPlugin(classify=True, search_attribute=ATTRIBUTE)
    client = await insist(lambda: Client.connect(setting.address, plugins=[plugin]), RuntimeError)
    bank = (Bank if setting.keys else KeylessBank)(Ledger(setting.ledger))
    shop = Shop(Store(Path(setting.directory) / "shop.sqlite3"))

    async def work() -> None:
        worker = Worker(
            client,
            task_queue=QUEUE,
            workflows=PREVIOUS if release == "previous" else WORKFLOWS,
            activities=[*bank.activities, *shop.activities],
            activity_executor=ThreadPoolExecutor(24),
            max_concurrent_activities=24,
            interceptors=[Faults(setting)],
            workflow_runner=runner(setting.pauses),
            sticky_queue_schedule_to_start_timeout=timedelta(milliseconds=500),
            identity=f"{release} {os.getpid()}",
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(worker.shutdown()))
        await worker.run()

    await insist(work, RuntimeError, seconds=3600)


def main() -> None:
    setting = json.loads(sys.argv[1])
    setting["refused"] = tuple(setting["refused"])
    release = sys.stdin.readline().strip()
    if not release:
        return
    # The input ends with the process that started this one.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    asyncio.run(run(Setting(**setting), release))


if __name__ == "__main__":
    main()
