"""The money transfer on a real server: how it ends, and what the ledger says afterwards, on either database."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger, in_transit
from examples.money_transfer.models import Decision, Review, Transfer, TransferResult, TransferStatus
from examples.money_transfer.starter import root_cause, start
from examples.money_transfer.worker import build_worker
from examples.money_transfer.workflows import MoneyTransfer
from temporal_saga.errors import Conflict
from temporal_saga.plugin import SagaPlugin
from tests.examples.databases import schema_on

Handle = WorkflowHandle[MoneyTransfer, TransferResult]

APPROVE = Review(Decision.APPROVE, "carol")
REJECT = Review(Decision.REJECT, "carol")


@dataclass
class World:
    """A ledger and a worker on a server."""

    client: Client
    ledger: Ledger
    task_queue: str

    async def start(
        self, amount: int = 250_00, *, source: str = "alice", target: str = "bob", **changes: Any
    ) -> Handle:
        transfer = Transfer(uuid4().hex, source, target, amount, changes.pop("currency", "EUR"))
        assert not changes
        return await start(self.client, transfer, self.task_queue)

    def balances(self) -> tuple[int, int, int]:
        """What alice and bob have, and what is in transit."""
        balances = {account.name: account.balance for account in self.ledger.accounts()}
        return balances["alice"], balances["bob"], balances[in_transit("EUR")]


UNTOUCHED = (20_000_00, 50_00, 0)


class GatedBank(Bank):
    """A bank whose deposit waits for the test."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.gate = threading.Event()
        self._reached = threading.Event()

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 20)

    @activity.defn
    def deposit(self, transfer: Transfer) -> int:
        self._reached.set()
        assert self.gate.wait(20)
        return super().deposit(transfer)


class ForgetfulBank(Bank):
    """A bank that loses its first reply to a deposit."""

    @activity.defn
    def deposit(self, transfer: Transfer) -> int:
        entry = super().deposit(transfer)
        if activity.info().attempt == 1:
            raise ConnectionError("the reply is lost")
        return entry


class BrokenBank(Bank):
    """A bank that cannot write a receipt."""

    @activity.defn
    def record(self, transfer: Transfer) -> int:
        raise ApplicationError("out of paper", non_retryable=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty one."""
    if request.param == "sqlite":
        yield str(tmp_path / "bank.sqlite3")
    else:
        with schema_on(request.getfixturevalue("postgres")) as url:
            yield url


@pytest.fixture
def bank(database: str) -> Bank:
    return open_bank(database)


def open_bank(database: str) -> Bank:
    ledger = Ledger(database)
    ledger.open_account("alice", "EUR", 20_000_00)
    ledger.open_account("bob", "EUR", 50_00)
    ledger.open_account("yuki", "JPY", 1000)
    return Bank(ledger)


@pytest.fixture
def gated(bank: Bank) -> Iterator[GatedBank]:
    gated = GatedBank(bank.ledger)
    yield gated
    gated.gate.set()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@asynccontextmanager
async def world_on(client: Client, bank: Bank, threads: ThreadPoolExecutor) -> AsyncIterator[World]:
    task_queue = uuid4().hex
    async with build_worker(client, bank, threads, task_queue):
        yield World(client, bank.ledger, task_queue)


@pytest.fixture
async def world(client: Client, bank: Bank, threads: ThreadPoolExecutor) -> AsyncIterator[World]:
    async with world_on(client, bank, threads) as world:
        yield world


async def history(handle: Handle) -> list[str]:
    """The activities in the order they were scheduled; replays the history on the way."""
    replayer = Replayer(workflows=[MoneyTransfer], plugins=[SagaPlugin()])
    fetched = await handle.fetch_history()
    await replayer.replay_workflow(fetched)
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in fetched.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]


async def until(handle: Handle, status: TransferStatus) -> None:
    async def reached() -> bool:
        return await handle.query(MoneyTransfer.transfer_status) is status

    await eventually(reached)


async def until_conflict(caplog: pytest.LogCaptureFixture) -> None:
    """Waits until an attempt has failed so. Its log tells: the server forgets failures with long stack traces."""

    async def failed() -> bool:
        return any(record.exc_info and record.exc_info[0] is Conflict for record in caplog.records)

    await eventually(failed)


async def eventually(reached: Callable[[], Awaitable[bool]]) -> None:
    async def poll() -> None:
        while not await reached():
            await asyncio.sleep(0.05)

    await asyncio.wait_for(poll(), 20)


async def status_of(handle: Handle) -> WorkflowExecutionStatus | None:
    """How the run closed."""
    with suppress(WorkflowFailureError):
        await handle.result()
    return (await handle.describe()).status


async def refusal(handle: Handle, review: Review) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update(MoneyTransfer.review, review)
    return root_cause(caught.value)


async def test_a_transfer_that_succeeds(world: World) -> None:
    handle = await world.start(250_00)
    result = await handle.result()
    assert result.status is TransferStatus.COMPLETED
    assert result.receipt is not None
    assert world.balances() == (19_750_00, 300_00, 0)
    assert await history(handle) == ["check", "withdraw", "deposit", "record"]
    assert await handle.query(MoneyTransfer.transfer_status) is TransferStatus.COMPLETED


async def test_a_deposit_that_is_refused_returns_the_withdrawal(world: World) -> None:
    world.ledger.freeze("bob")
    handle = await world.start(250_00)
    assert await handle.result() == TransferResult(TransferStatus.DECLINED, reason="account bob is frozen")
    assert world.balances() == UNTOUCHED
    assert await history(handle) == ["check", "withdraw", "deposit", "return_withdrawal"]


async def test_insufficient_funds_are_an_answer_and_no_stack_trace(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        handle = await world.start(100_00, source="bob", target="alice")
        assert await handle.result() == TransferResult(
            TransferStatus.DECLINED, reason="insufficient funds in account bob"
        )
    assert [record for record in caplog.records if record.exc_info] == []
    assert world.balances() == UNTOUCHED
    assert await history(handle) == ["check", "withdraw"]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"source": "mallory"}, "unknown account mallory"),
        ({"target": "alice"}, "same account"),
        ({"amount": 0}, "above zero"),
        ({"amount": -5}, "above zero"),
        ({"currency": "USD"}, "not USD"),
        ({"target": "yuki"}, "account yuki is in JPY"),
    ],
)
async def test_a_bad_order_fails_before_anything_moves(world: World, order: dict[str, Any], message: str) -> None:
    handle = await world.start(**order)
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert message in root_cause(caught.value)
    cause = caught.value.cause.__cause__
    assert isinstance(cause, ApplicationError)
    assert cause.type == "Rejected"
    assert world.balances() == UNTOUCHED
    assert await history(handle) == ["check"]
    assert await handle.query(MoneyTransfer.transfer_status) is TransferStatus.FAILED


async def test_an_approved_transfer_goes_on(world: World) -> None:
    handle = await world.start(15_000_00)
    await until(handle, TransferStatus.WAITING_FOR_REVIEW)
    assert world.balances() == (5_000_00, 50_00, 15_000_00)
    await handle.execute_update(MoneyTransfer.review, APPROVE)
    assert (await handle.result()).status is TransferStatus.COMPLETED
    assert world.balances() == (5_000_00, 15_050_00, 0)
    assert await history(handle) == ["check", "withdraw", "deposit", "record"]


async def test_a_rejected_transfer_unwinds(world: World) -> None:
    handle = await world.start(15_000_00)
    await until(handle, TransferStatus.WAITING_FOR_REVIEW)
    await handle.execute_update(MoneyTransfer.review, REJECT)
    assert await handle.result() == TransferResult(TransferStatus.REJECTED, reason="rejected by carol")
    assert world.balances() == UNTOUCHED
    assert await history(handle) == ["check", "withdraw", "return_withdrawal"]


async def test_a_review_is_valid_from_the_first_moment_on(
    client: Client, bank: Bank, threads: ThreadPoolExecutor
) -> None:
    # Without a worker the update is with the server before the workflow has begun.
    task_queue = uuid4().hex
    handle = await World(client, bank.ledger, task_queue).start(15_000_00)
    update = asyncio.create_task(handle.execute_update(MoneyTransfer.review, APPROVE))
    await asyncio.sleep(0.3)
    async with build_worker(client, bank, threads, task_queue):
        await update
        assert (await handle.result()).status is TransferStatus.COMPLETED
    assert await history(handle) == ["check", "withdraw", "deposit", "record"]


async def test_a_second_review_is_refused_whenever_it_comes(
    client: Client, gated: GatedBank, threads: ThreadPoolExecutor
) -> None:
    async with world_on(client, gated, threads) as world:
        handle = await world.start(15_000_00)
        await until(handle, TransferStatus.WAITING_FOR_REVIEW)
        await handle.execute_update(MoneyTransfer.review, APPROVE)
        await gated.reached()
        assert await refusal(handle, REJECT) == "already reviewed by carol"
        gated.gate.set()
        assert (await handle.result()).status is TransferStatus.COMPLETED
        await history(handle)


async def test_a_review_without_a_reviewer_is_refused(world: World) -> None:
    handle = await world.start(15_000_00)
    assert "reviewer's name" in await refusal(handle, Review(Decision.APPROVE, " "))
    await handle.execute_update(MoneyTransfer.review, APPROVE)
    assert (await handle.result()).status is TransferStatus.COMPLETED
    await history(handle)


async def test_a_review_of_a_transfer_within_the_limit_is_refused(
    client: Client, gated: GatedBank, threads: ThreadPoolExecutor
) -> None:
    async with world_on(client, gated, threads) as world:
        handle = await world.start(10_000_00)
        await gated.reached()
        assert await refusal(handle, REJECT) == "no review is due"
        assert await handle.query(MoneyTransfer.transfer_status) is TransferStatus.RUNNING
        gated.gate.set()
        assert (await handle.result()).status is TransferStatus.COMPLETED
        await history(handle)


async def test_no_review_in_24_hours_counts_as_a_reject(
    time_skipping_env: WorkflowEnvironment, bank: Bank, threads: ThreadPoolExecutor
) -> None:
    async with world_on(time_skipping_env.client, bank, threads) as world:
        handle = await world.start(15_000_00)
        assert await handle.result() == TransferResult(TransferStatus.REJECTED, reason="no review in time")
        assert world.balances() == UNTOUCHED
        assert await history(handle) == ["check", "withdraw", "return_withdrawal"]
        described = await handle.describe()
        assert described.close_time is not None
        assert described.close_time - described.start_time >= timedelta(hours=24)


async def test_a_cancel_in_the_wait_for_the_review_unwinds(world: World) -> None:
    handle = await world.start(15_000_00)
    await until(handle, TransferStatus.WAITING_FOR_REVIEW)
    await handle.cancel()
    assert await status_of(handle) is WorkflowExecutionStatus.CANCELED
    assert world.balances() == UNTOUCHED
    assert await history(handle) == ["check", "withdraw", "return_withdrawal"]
    assert await handle.query(MoneyTransfer.transfer_status) is TransferStatus.CANCELLED


async def test_a_cancel_during_the_deposit_undoes_it_first(
    client: Client, gated: GatedBank, threads: ThreadPoolExecutor
) -> None:
    async with world_on(client, gated, threads) as world:
        handle = await world.start(250_00)
        await gated.reached()
        await handle.cancel()
        gated.gate.set()
        assert await status_of(handle) is WorkflowExecutionStatus.CANCELED
        assert world.balances() == UNTOUCHED
        undos = ["reverse_deposit", "return_withdrawal"]
        assert await history(handle) == ["check", "withdraw", "deposit", *undos]


async def test_a_fault_for_good_fails_once_all_is_undone(
    client: Client, bank: Bank, threads: ThreadPoolExecutor
) -> None:
    async with world_on(client, BrokenBank(bank.ledger), threads) as world:
        handle = await world.start(250_00)
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()
        assert "out of paper" in root_cause(caught.value)
        assert world.balances() == UNTOUCHED
        undos = ["void_record", "reverse_deposit", "return_withdrawal"]
        assert await history(handle) == ["check", "withdraw", "deposit", "record", *undos]


async def test_a_deposit_whose_reply_is_lost_happens_once(
    client: Client, bank: Bank, threads: ThreadPoolExecutor
) -> None:
    async with world_on(client, ForgetfulBank(bank.ledger), threads) as world:
        handle = await world.start(250_00)
        assert (await handle.result()).status is TransferStatus.COMPLETED
        assert world.balances() == (19_750_00, 300_00, 0)
        await history(handle)


async def test_a_transfer_id_is_used_once(world: World) -> None:
    transfer = Transfer(uuid4().hex, "alice", "bob", 250_00, "EUR")
    handle = await start(world.client, transfer, world.task_queue)
    await handle.result()
    with pytest.raises(WorkflowAlreadyStartedError):
        await start(world.client, transfer, world.task_queue)
    assert world.balances() == (19_750_00, 300_00, 0)
    await history(handle)


@pytest.fixture
def classifying(client: Client) -> Client:
    """As the example's own worker has it."""
    config = client.config()
    config["plugins"] = [SagaPlugin(classify=True)]
    return Client(**config)


async def test_a_locked_database_is_tried_again(
    classifying: Client, tmp_path: Path, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    bank = open_bank(str(tmp_path / "bank.sqlite3"))
    async with world_on(classifying, bank, threads) as world:
        with bank.ledger.transaction():
            handle = await world.start(250_00)
            await until_conflict(caplog)
        assert (await handle.result()).status is TransferStatus.COMPLETED
        assert world.balances() == (19_750_00, 300_00, 0)
        await history(handle)


async def test_a_deadlock_is_tried_again(
    classifying: Client, postgres: str, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    # The first to look for a deadlock is its victim: that is the ledger, since the other looks later.
    with schema_on(postgres, deadlock_timeout="2s") as database:
        bank = open_bank(database)
        async with world_on(classifying, bank, threads) as world:
            with psycopg.connect(database) as other:
                lock = "SELECT 1 FROM accounts WHERE name = %s FOR UPDATE"
                other.execute("SET deadlock_timeout = '50s'")
                other.execute(lock, [in_transit("EUR")])

                async def ledger_waits() -> bool:
                    return other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone() is not None

                handle = await world.start(250_00)
                await eventually(ledger_waits)
                await asyncio.to_thread(other.execute, lock, ["alice"])
                await until_conflict(caplog)
                other.rollback()
            assert (await handle.result()).status is TransferStatus.COMPLETED
            assert world.balances() == (19_750_00, 300_00, 0)
            await history(handle)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_worker_that_is_killed_in_the_middle_of_a_withdrawal(
    client: Client, bank: Bank, database: str, threads: ThreadPoolExecutor, moment: str
) -> None:
    """Before the commit or after it: either way the next worker withdraws what has not been withdrawn."""
    world = World(client, bank.ledger, uuid4().hex)
    address = client.service_client.config.target_host
    worker = await run_program("tests.examples.mortal_worker", database, world.task_queue, moment, address=address)
    handle = await world.start(250_00)
    code, text = await output(worker)
    assert code == -signal.SIGKILL, text
    assert world.balances() == (UNTOUCHED if moment == "before" else (19_750_00, 50_00, 250_00))
    async with build_worker(client, bank, threads, world.task_queue):
        assert (await handle.result()).status is TransferStatus.COMPLETED
    assert world.balances() == (19_750_00, 300_00, 0)
    await history(handle)


async def run_program(module: str, *arguments: str, address: str, database: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        env={**os.environ, "TEMPORAL_ADDRESS": address, "DATABASE_URL": database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def output(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 30)
    except asyncio.TimeoutError:
        process.kill()
        raise
    return process.returncode, (stdout + stderr).decode()


@pytest.mark.parametrize(
    ("arguments", "expected"), [((), "COMPLETED: receipt"), (("--freeze",), "DECLINED: account bob is frozen")]
)
@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
async def test_the_demo_runs(
    client: Client, postgres: str, where: str, arguments: tuple[str, ...], expected: str
) -> None:
    address = client.service_client.config.target_host
    with schema_on(postgres) if where == "postgresql" else nullcontext("") as database:
        demo = await run_program("examples.money_transfer", *arguments, address=address, database=database)
        code, text = await output(demo)
    assert code == 0, text
    assert expected in text
    assert (" dbname=" if where == "postgresql" else "bank.sqlite3:") in text
    assert text.count("1,050.00 EUR") == 2  # what the customers own, before and after


async def test_worker_and_starter_run_as_processes(client: Client, database: str) -> None:
    address = client.service_client.config.target_host
    queue = ("--task-queue", uuid4().hex)

    async def starter(*arguments: str) -> tuple[int | None, str]:
        program = "examples.money_transfer.starter"
        return await output(await run_program(program, *arguments, *queue, address=address))

    accounts = ("--open", "alice", "EUR", "50000.00", "--open", "bob", "EUR", "0")
    url, where = (database, ()) if "://" in database else ("", ("--db", database))
    worker = await run_program(
        "examples.money_transfer.worker", *where, *accounts, *queue, address=address, database=url
    )
    try:
        assert worker.stdout is not None
        assert b"Working" in await asyncio.wait_for(worker.stdout.readline(), 30)
        order = ("--id", uuid4().hex, "--from", "alice", "--to", "bob", "--amount", "20000.00")
        code, text = await starter(*order, "--no-wait")
        assert code == 0, text
        assert "Started" in text
        code, text = await starter(*order[:2], "--review", "approve")
        assert (code, text) == (1, "error: a review needs the reviewer's name\n")
        code, text = await starter(*order[:2], "--review", "approve", "--reviewer", "carol")
        assert code == 0, text
        assert "COMPLETED" in text
        code, text = await starter(*order)
        assert code == 1
        assert "already started" in text
    finally:
        worker.terminate()
        code, text = await output(worker)
    assert code == 0, text
    assert {a.name: a.balance for a in Ledger(database).accounts() if a.customer} == {
        "alice": 30_000_00,
        "bob": 20_000_00,
    }
