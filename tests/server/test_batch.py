"""Payouts on a real server: what is paid, what is taken back, and how large a parent's history becomes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from examples.batch.__main__ import start, working
from examples.batch.activities import Ledger
from examples.batch.models import Batch, Transfer
from tests.server.support import causes, eventually


class Bank(Ledger):
    """One whose credits fail, or wait, for the numbers that a test names."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = -1
        self.held = -1

    @activity.defn
    def credit(self, transfer: Transfer) -> None:
        if transfer.number == self.broken:
            raise ApplicationError("the network is down", non_retryable=True)
        if transfer.number == self.held:
            raise RuntimeError("try again")
        super().credit(transfer)


@pytest.fixture
async def bank(client: Client) -> AsyncIterator[Bank]:
    bank = Bank()
    async with working(client, bank):
        yield bank
    bank.close()


def balances(bank: Bank) -> tuple[int, int]:
    """What is in the funds, and what on the accounts."""
    rows: Any = bank.rows("SELECT name = 'funds', balance FROM accounts")
    return sum(b for funds, b in rows if funds), sum(b for funds, b in rows if not funds)


def messages(bank: Bank) -> list[str]:
    return [str(text) for (text,) in bank.rows("SELECT text FROM messages")]


def payout(bank: Bank, count: int, **options: Any) -> Batch:
    name = f"p-{uuid4()}"
    bank.prepare(name, count, options.pop("closed_every", 20))
    return Batch(name, 0, count, **options)


async def test_what_fails_is_a_line_in_the_summary(client: Client, bank: Bank) -> None:
    """In a tree of two levels: two accounts are closed and one transfer has a fault. The admin gets one message."""
    bank.broken = 3
    batch = payout(bank, 16, leaf=8, at_once=4, closed_every=8)
    handle = await start(client, batch)
    summary = await handle.result()
    assert (summary.paid, summary.failed) == (13, 3)
    assert [line.partition(":")[0] for line in summary.named] == ["transfer 3", "transfer 7", "transfer 15"]
    assert balances(bank) == (3_00, 13_00)
    assert [text.startswith(f"{batch.payout}: 13 paid, 3 failed") for text in messages(bank)] == [True]
    leaf = await client.get_workflow_handle(f"{batch.payout}-0-8").fetch_history()
    assert len(leaf.events) <= 8 * 9 + 20  # as the README counts


async def test_if_all_are_paid_nobody_is_told(client: Client, bank: Bank) -> None:
    summary = await (await start(client, payout(bank, 5, at_once=4))).result()
    assert (summary.paid, summary.failed, summary.named, messages(bank)) == (5, 0, [], [])
    assert balances(bank) == (0, 5_00)


async def test_all_are_paid_or_none(client: Client, bank: Bank) -> None:
    handle = await start(client, payout(bank, 6, at_once=4, closed_every=6), all_or_nothing=True)
    summary = await handle.result()
    assert (summary.paid, summary.failed, len(messages(bank))) == (0, 6, 1)
    assert balances(bank) == (6_00, 0)
    handle = await start(client, payout(bank, 5, at_once=4), all_or_nothing=True)
    assert (await handle.result()).paid == 5
    assert balances(bank) == (6_00, 5_00)


async def test_a_fault_takes_the_whole_batch_back(client: Client, bank: Bank) -> None:
    bank.broken = 3
    handle = await start(client, payout(bank, 5, at_once=2), all_or_nothing=True)
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert causes(error.value.cause)[0] == "ChildWorkflowError"
    assert balances(bank) == (5_00, 0)


@pytest.mark.parametrize("all_or_nothing", [False, True])
async def test_a_cancel_undoes_the_transfers_under_way(client: Client, bank: Bank, all_or_nothing: bool) -> None:
    """What is paid is kept in one variant, and taken back in the other."""
    bank.held = 5
    handle = await start(client, payout(bank, 6, at_once=3), all_or_nothing=all_or_nothing)

    async def five_are_paid() -> bool:
        events = (await handle.fetch_history()).events
        return sum(event.event_type == EventType.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED for event in events) == 5

    await eventually(five_are_paid)
    await eventually(lambda: balances(bank) == (0, 5_00))
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert isinstance(error.value.cause, CancelledError)
    # A child that unwinds may outlive its parent.
    await eventually(lambda: balances(bank) == ((6_00, 0) if all_or_nothing else (1_00, 5_00)))


async def start_worker(client: Client, database: str) -> asyncio.subprocess.Process:
    """A worker as a process of its own, which has begun."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.batch", "worker", "--db", database, "--transfers", "0"),
        env={**os.environ, "TEMPORAL_ADDRESS": client.service_client.config.target_host},
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdout is not None
    assert b"working" in await worker.stdout.readline()
    return worker


@pytest.mark.deep
@pytest.mark.timeout(1_800)
async def test_two_thousand_transfers_while_workers_are_killed(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Totals intact, the summary right, and no parent's history above a tenth of what the server allows.

    The README has the figures that this prints.
    """
    count, began, database = 2_000, time.monotonic(), str(tmp_path / "payouts.sqlite3")
    ledger = Ledger(database)
    batch = Batch(f"p-{uuid4()}", 0, count)
    ledger.prepare(batch.payout, count, closed_every=20)

    def paid() -> list[Any]:
        return [balance for (balance,) in ledger.rows("SELECT balance FROM accounts WHERE name <> 'funds' AND balance")]

    worker = await start_worker(client, database)
    try:
        handle = await start(client, batch)
        for share in (0.2, 0.6):
            enough = share * count
            await eventually(lambda: len(paid()) >= enough, seconds=1_500)  # noqa: B023 - it is awaited in this round
            worker.kill()
            await worker.wait()
            worker = await start_worker(client, database)
        summary = await handle.result()
    finally:
        worker.terminate()
        await worker.wait()
    seconds = time.monotonic() - began

    assert (summary.paid, summary.failed, len(summary.named)) == (1_900, 100, 20)
    assert paid() == [1_00] * 1_900
    assert ledger.rows("SELECT balance FROM accounts WHERE name = 'funds'") == [(100_00,)]
    ((message,),) = ledger.rows("SELECT text FROM messages")
    assert str(message).startswith(f"{batch.payout}: 1900 paid, 100 failed")
    parents = [handle.id, *(f"{batch.payout}-{first}-{batch.leaf}" for first in range(0, count, batch.leaf))]
    events = size = 0
    for parent in parents:
        info = (await client.get_workflow_handle(parent).describe()).raw_description.workflow_execution_info
        events, size = max(events, info.history_length), max(size, info.history_size_bytes)
    with capsys.disabled():
        print(
            f"\n{count} transfers in {seconds:.0f} s, workers killed twice: {summary.paid} paid, "
            f"{summary.failed} failed; the longest history of a parent has {events} events and {size / 1e6:.1f} MB"
        )
    assert (events < 5_120, size < 5_000_000) == (True, True)  # the server's limits: 51,200 events and 50 MB
    ledger.close()
