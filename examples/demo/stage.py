"""Where the stories play: a server, workers, and for each story two sides with their ledgers."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.worker import Worker

from examples.demo.hazards import Gate
from examples.demo.textbook import TextbookOrder, TextbookTransfer
from examples.demo.verdict import Books, Row
from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger, in_transit
from examples.money_transfer.models import Decision, Review, Transfer
from examples.money_transfer.workflows import MoneyTransfer
from examples.order.activities import Shop
from examples.order.models import Line, Order
from examples.order.store import Store
from examples.order.workflows import Notify, OrderWorkflow
from temporal_saga.plugin import SagaPlugin

Name = Literal["saga", "textbook"]

_PATIENCE = 60


class Stage:
    """A run of the demo. Workers that enter the stage stay on it until the end: queries need one."""

    def __init__(
        self, client: Client, folder: Path, run: str, threads: ThreadPoolExecutor, *, tidy: bool = False
    ) -> None:
        """Keeps what all stories share.

        Args:
            client: A plain client: only the sagas' workers have the plugin.
            folder: Where the ledgers are.
            run: Tells this run from others on the same server.
            threads: For the activities, which block.
            tidy: Whether to leave no workflow running: on a server that lives on.
        """
        self.client = client
        self.tidy = tidy
        self.folder = folder
        self.run = run
        self.threads = threads
        self.open = AsyncExitStack()


class Side(ABC):
    """A story as the saga or the textbook has it: a workflow, its workers, its ledger."""

    workflows: ClassVar[Mapping[Name, type[Any]]]
    caption: ClassVar[str]
    activities: Sequence[Callable[..., object]]

    def __init__(self, stage: Stage, story: int, name: Name) -> None:
        """Opens an empty ledger."""
        self.name: Name = name
        self.id = f"demo-{stage.run}-{story}-{name}"  # of the workflow and of the task queue
        self.gate = Gate()
        self.handle: WorkflowHandle[Any, Any] = stage.client.get_workflow_handle(self.id)
        self._stage = stage

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self._stage.folder / f"{self.id}.db"

    def worker(self, workflow: type[Any] | None = None) -> Worker:
        """A worker for this side, with this version of the workflow's code."""
        return Worker(
            self._stage.client,
            task_queue=self.id,
            workflows=[workflow or self.workflows[self.name], Notify],
            activities=self.activities,
            activity_executor=self._stage.threads,
            plugins=[SagaPlugin()] if self.name == "saga" else [],
            # A worker that died is offered its own workflows first: not for the usual 10 s.
            sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        )

    async def enter(self) -> None:
        """Starts a worker that stays until the end."""
        await self._stage.open.enter_async_context(self.worker())
        self._stage.open.callback(self.gate.opened.set)

    async def start(self, argument: object) -> None:
        """Starts the workflow."""
        await self._stage.client.start_workflow(self.workflows[self.name].run, argument, id=self.id, task_queue=self.id)
        if self._stage.tidy:
            self._stage.open.push_async_callback(self._leave)

    async def seen(self, *types: str) -> None:
        """Waits until the history has events of these types, in this order."""

        async def found() -> bool:
            events = iter(
                [
                    EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
                    async for event in self.handle.fetch_history_events()
                ]
            )
            return all(type in events for type in types)

        await until(found, f"{self.id} has {types}")

    async def end(self) -> None:
        """Waits until the workflow has ended, well or badly."""

        async def ended() -> bool:
            return await self._status() is not WorkflowExecutionStatus.RUNNING

        await until(ended, f"{self.id} ends")

    async def books(self, *, done: bool) -> Books:
        """The ledger as it is now, beside what it should be.

        Args:
            done: Whether the business should be done; else, as if it had never been ordered.
        """
        return Books(self.rows(done), self.caption, await self._ending())

    @abstractmethod
    def rows(self, done: bool) -> list[Row]:
        """The lines of the ledger."""

    async def _status(self) -> WorkflowExecutionStatus | None:
        return (await self.handle.describe()).status

    async def _ending(self) -> str:
        description = await self.handle.describe()
        if description.status is WorkflowExecutionStatus.RUNNING:
            attempt = description.raw_description.pending_workflow_task.attempt
            return "running" if attempt < 2 else f"stuck in its task's attempt {attempt}"
        if description.status is WorkflowExecutionStatus.COMPLETED:
            result = await self.handle.result()
            # The sagas' workflows return how the business ended.
            return f"completed, {result['status']}" if isinstance(result, dict) else "completed"
        if description.status is WorkflowExecutionStatus.CANCELED:
            return "cancelled"
        return description.status.name.lower() if description.status else "unknown"

    async def _leave(self) -> None:
        if await self._status() is WorkflowExecutionStatus.RUNNING:
            await self.handle.terminate("the demo is over")


class MoneySide(Side):
    """Alice sends bob 100.00 EUR."""

    workflows: ClassVar[Mapping[Name, type[Any]]] = {"saga": MoneyTransfer, "textbook": TextbookTransfer}
    caption = "customers own"

    def __init__(
        self,
        stage: Stage,
        story: int,
        name: Name,
        bank: Callable[[Ledger, Gate], Bank] = lambda ledger, _: Bank(ledger),
    ) -> None:
        """Opens both accounts."""
        super().__init__(stage, story, name)
        self.ledger = Ledger(self.path)
        self.ledger.open_account("alice", "EUR", 1_000_00)
        self.ledger.open_account("bob", "EUR", 50_00)
        self.activities = bank(self.ledger, self.gate).activities
        self._before = self._balances()
        self._amount = 100_00

    async def order(self, *, review: bool = False) -> None:
        """Orders the transfer; with a review, it is over the limit."""
        limit = self._amount - 1 if review else self._amount
        await self.start(Transfer(self.id, "alice", "bob", self._amount, "EUR", review_over=limit))

    async def reject(self) -> None:
        """Answers the review."""
        review = Review(Decision.REJECT, "carol")
        try:
            # By name: the two workflows have no class in common.
            await self.handle.execute_update("review", review)
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            # There is no timeout: it is the demo's own cancel (Ctrl-C), which must not be lost.
            raise asyncio.CancelledError from None

    def rows(self, done: bool) -> list[Row]:
        """Who has what."""
        moved = self._amount if done else 0
        due = {"alice": self._before["alice"] - moved, "bob": self._before["bob"] + moved}
        now = self._balances()
        rows = [Row(name, now[name], due[name]) for name in due]
        return [*rows, Row("in transit", now[in_transit("EUR")], 0, owned=False)]

    def _balances(self) -> dict[str, int]:
        return {account.name: account.balance for account in self.ledger.accounts()}


class OrderSide(Side):
    """Ann buys a teapot."""

    workflows: ClassVar[Mapping[Name, type[Any]]] = {"saga": OrderWorkflow, "textbook": TextbookOrder}
    caption = "ann has"

    def __init__(self, stage: Stage, story: int, name: Name, shop: Callable[[Store, Gate], Shop]) -> None:
        """Fills the shop."""
        super().__init__(stage, story, name)
        self.store = Store(self.path)
        self.store.add_samples()
        self.activities = shop(self.store, self.gate).activities
        self._before = self._on_card()

    async def order(self) -> None:
        """Orders the teapot."""
        await self.start(Order(self.id, "ann@example.com", "4242", [Line("teapot", 1)]))

    async def end(self) -> None:
        """Waits also for its mails, which are workflows of their own."""
        await super().end()
        async for event in self.handle.fetch_history_events():
            started = event.child_workflow_execution_started_event_attributes
            if mail := started.workflow_execution.workflow_id:
                await self._stage.client.get_workflow_handle(mail).result()

    def parcel_has_left(self) -> bool:
        """Whether the warehouse has handed it over. What has left nobody can put back."""
        return bool(self.store.rows("SELECT 1 FROM outbox WHERE channel = 'parcel'"))

    def rows(self, done: bool) -> list[Row]:
        """What the customer has, and what the shop was paid."""
        ((price,),) = self.store.rows("SELECT price FROM products WHERE sku = 'teapot'")
        ((paid,),) = self.store.rows("SELECT coalesce(sum(amount), 0) FROM payments WHERE state = 'charged'")
        sold = price if done else 0
        return [
            Row("on ann's card", self._on_card(), self._before - sold),
            Row("goods sent to ann", price * self.parcel_has_left(), sold),
            Row("paid to the shop", paid, sold, owned=False),
        ]

    def _on_card(self) -> int:
        ((balance,),) = self.store.rows("SELECT balance FROM cards WHERE number = '4242'")
        return int(balance)


async def until(check: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Waits until the check is true."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while True:
        found = check()
        if await found if inspect.isawaitable(found) else found:
            return
        if loop.time() > deadline:
            raise TimeoutError(f"not within {_PATIENCE} s: {what}")
        await asyncio.sleep(0.05)
