"""The examples as worlds for `explore`: fresh books for each run, and the check that nothing is lost.

`python -m tests.testing.worlds money_transfer 2` explores one, and ends with 1 if it finds a violation; with `--first`,
at the first.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowUpdateFailedError
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from examples.demo.textbook import TextbookOrder, TextbookTransfer
from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger
from examples.money_transfer.models import Decision, Review, Transfer, TransferStatus
from examples.money_transfer.workflows import MoneyTransfer
from examples.order.activities import Shop
from examples.order.models import STATUS, Line, Order, OrderStatus, describe
from examples.order.models import Review as OrderReview
from examples.order.store import Store
from examples.order.workflows import Notify, OrderWorkflow
from temporal_saga.testing import Exploration, Simulation, explore
from temporal_saga.testing.explorer._alone import can_fork, cores

TRANSFER = Transfer("t-1", "A", "B", 30_00, "EUR", review_over=10_00)
ORDER = Order("o-1", "someone@example.com", "4242", [Line("teapot", 2), Line("cup", 4)], review_over=10_00)
LISTED = TypedSearchAttributes([SearchAttributePair(STATUS, OrderStatus.RECEIVED.value)])

_MEMORY = Path("/dev/shm")  # on Linux: a run then costs half of what it does on a disk


class _Books:
    """A database file, copied for each run from one that was filled once; each process has its own.

    A connection is held open meanwhile: else each that closes is the last one, and empties the log.
    """

    def __init__(self, directory: str, fill: Callable[[Path], None]) -> None:
        self._template = Path(directory) / "template.sqlite"
        fill(self._template)
        self._open: dict[int, sqlite3.Connection] = {}

    def close(self) -> None:
        if mine := self._open.pop(os.getpid(), None):  # not the one that came with a fork
            mine.close()

    def copy(self) -> Path:
        self.close()
        path = self._template.with_name(f"run-{os.getpid()}.sqlite")
        for old in path.parent.glob(f"{path.name}*"):  # with its log
            old.unlink()
        shutil.copy(self._template, path)
        db = self._open[os.getpid()] = sqlite3.connect(path)
        db.execute("SELECT * FROM sqlite_master").fetchone()
        return path


@contextmanager
def _books(world: Any, fill: Callable[[Path], None]) -> Generator[None, None, None]:
    """Give a world its books while it is explored."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        world.books = _Books(directory, fill)
        with closing(world.books):
            yield


class TransferWorld(Bank):
    """The bank, and a reviewer who approves."""

    books: _Books

    def __init__(self) -> None:
        super().__init__(Ledger(self.books.copy()))

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        with suppress(WorkflowUpdateFailedError):  # no review is due any more
            await handle.execute_update(MoneyTransfer.review, Review(Decision.APPROVE, "Ada"))

    def state(self) -> dict[str, int]:
        return {account.name: account.balance for account in self.ledger.accounts() if "capital" not in account.name}


def _open_accounts(path: Path) -> None:
    ledger = Ledger(path)
    ledger.open_account("A", "EUR", 100_00)
    ledger.open_account("B", "EUR", 0)


class OrderWorld(Shop):
    """The shop, and a warehouse that ships after an hour."""

    books: _Books

    def __init__(self) -> None:
        super().__init__(Store(self.books.copy()))

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        await handle.signal(OrderWorkflow.shipment_ready, "track-1")

    def state(self) -> dict[str, Any]:
        rows = self.store.rows
        stock = dict(rows("SELECT sku, on_hand FROM products"))
        carriers = {name: (pickups, labels) for name, pickups, labels in rows("SELECT * FROM carriers")}
        cards = dict(rows("SELECT number, balance FROM cards"))
        return {**stock, **carriers, **cards, "shipments": len(rows("SELECT * FROM shipments"))}


class ReviewedOrderWorld(OrderWorld):
    """And a person who approves first, half a minute before: so the last news meets a child that is open."""

    async def client(self, handle: Any) -> None:
        await asyncio.sleep(3600)
        with suppress(WorkflowUpdateFailedError):  # no review is due any more
            await handle.execute_update(OrderWorkflow.review, OrderReview(True, "eve"))
        await asyncio.sleep(30)
        await handle.signal(OrderWorkflow.shipment_ready, "track-1")


def _fill_shop(path: Path) -> None:
    Store(path).add_samples()


def transfer_holds(world: TransferWorld, simulation: Simulation[Any]) -> None:
    """The money is here or there."""
    moved = simulation.status == "completed" and simulation.result().status is TransferStatus.COMPLETED
    expected = {"A": 70_00, "B": 30_00} if moved else {"A": 100_00, "B": 0}
    assert world.state() == {**expected, "in transit EUR": 0}, f"moved: {moved}, {world.state()}"


def order_holds(world: OrderWorld, simulation: Simulation[Any]) -> None:
    """Goods and money have changed hands, or neither has; and the customer has heard how it ended."""
    state = world.state()
    kept = {"teapot": 5, "cup": 20, "4242": 500_00, "4000": 0}
    sold = {"teapot": 3, "cup": 16, "4242": 500_00 - 2 * 24_90 - 4 * 6_50, "4000": 0}
    goods = {name: state[name] for name in kept}
    pickups = 20 - state["swift"][0] - state["post"][0]
    labels = 20 - state["swift"][1] - state["post"][1]
    shipped = simulation.status == "completed" and simulation.result().status is OrderStatus.SHIPPED
    # Past the pivot all is kept, recorded or not: the parcel has left.
    past_pivot = any(call.label == "record_shipment" for call in simulation.calls)
    assert goods == (sold if past_pivot else kept), f"shipped: {shipped}, {state}"
    assert (pickups, labels) == ((1, 1) if past_pivot else (0, 0)), f"shipped: {shipped}, {state}"
    is_mailed = all(call.state == "completed" for call in simulation.calls if call.label == "send")
    if simulation.status == "completed" and is_mailed:
        mails = [text for (text,) in world.store.rows("SELECT text FROM outbox WHERE channel = 'mail' ORDER BY rowid")]
        assert mails, "no mail"
        assert mails[-1].endswith(describe(simulation.result())), mails


def _common(faults: int) -> dict[str, Any]:
    # As many processes as cores, though the books are files. One that is not forked would not know where they are.
    return {"faults": faults, "fail": False, "processes": cores() if can_fork() else 1}


def explore_money_transfer(faults: int, **options: Any) -> Exploration:
    options = {"setup": TransferWorld, "check": transfer_holds, **_common(faults), **options}
    with _books(TransferWorld, _open_accounts):
        return explore(MoneyTransfer.run, TRANSFER, **options)


def explore_order(faults: int, **options: Any) -> Exploration:
    options = {"setup": ReviewedOrderWorld, "check": order_holds, **_common(faults), **options}
    with _books(OrderWorld, _fill_shop):
        return explore(OrderWorkflow.run, ORDER, workflows=[Notify], search_attributes=LISTED, **options)


def explore_textbook_transfer(faults: int, **options: Any) -> Exploration:
    with _books(TransferWorld, _open_accounts):
        return explore(TextbookTransfer.run, TRANSFER, setup=TransferWorld, **_common(faults), **options)


def explore_textbook_order(faults: int, **options: Any) -> Exploration:
    with _books(OrderWorld, _fill_shop):
        return explore(TextbookOrder.run, ORDER, setup=OrderWorld, **_common(faults), **options)


EXAMPLES: dict[str, Callable[..., Exploration]] = {
    "money_transfer": explore_money_transfer,
    "order": explore_order,
    "textbook_transfer": explore_textbook_transfer,
    "textbook_order": explore_textbook_order,
}

if __name__ == "__main__":
    name, faults, *rest = sys.argv[1:]
    exploration = EXAMPLES[name](int(faults), first="--first" in rest)
    for violation in exploration.violations:
        print(violation)
    print(exploration)
    sys.exit(bool(exploration.violations))
