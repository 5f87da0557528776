"""Stock in SQLite, behind the fence."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from temporalio import activity, workflow

from temporal_saga import Saga, business_key, fence, presets
from temporal_saga.testing import Simulation
from tests.kit.corpus.case import Buggy, Correct

STANDARD = presets.standard()


class Warehouse:
    """A database with a stock of ten, and the mails that were sent."""

    def __init__(self) -> None:
        self.database = sqlite3.connect(":memory:", check_same_thread=False)
        with self.database:
            fence.create_table(self.database)
            self.database.execute("CREATE TABLE stock (item TEXT PRIMARY KEY, on_hand INTEGER NOT NULL)")
            self.database.execute("INSERT INTO stock VALUES ('apple', 10), ('pear', 10), ('mails', 0)")
        self.activities: list[Callable[..., Any]] = [self.take, self.put_back, self.mail]

    def close(self) -> None:
        self.database.close()

    def add(self, item: str, count: int) -> None:
        self.database.execute("UPDATE stock SET on_hand = on_hand + ? WHERE item = ?", (count, item))

    def on_hand(self, item: str) -> int:
        return int(self.database.execute("SELECT on_hand FROM stock WHERE item = ?", (item,)).fetchone()[0])

    @activity.defn
    def take(self, item: str) -> None:
        with self.database:
            fence.once(self.database, lambda: self.add(item, -1), payload=item)

    @activity.defn
    def put_back(self, item: str) -> None:
        with self.database:
            fence.once(self.database, lambda: self.add(item, 1), payload=item)

    @activity.defn
    def mail(self, item: str) -> None:
        """Tell the customer, once and for all."""
        with self.database:
            fence.once(self.database, lambda: self.add("mails", 1), payload=item, key=business_key("mail", item))


@workflow.defn
class Pick:
    @workflow.run
    async def run(self, items: list[str]) -> None:
        async with Saga("pick", activity_options=STANDARD) as saga:
            for item in items:
                await saga.execute_activity_method(Warehouse.take, item, compensation=Warehouse.put_back)


@workflow.defn
class PickAndTell:
    @workflow.run
    async def run(self, item: str) -> None:
        async with Saga("pick", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Warehouse.take, item, compensation=Warehouse.put_back)
            saga.pivot()
            await saga.execute_activity_method(Warehouse.mail, item, **presets.forward_only())


def counted(warehouse: Warehouse, simulation: Simulation[Any]) -> None:
    left = 9 if simulation.status == "completed" else 10
    assert (warehouse.on_hand("apple"), warehouse.on_hand("pear")) == (left, left)


def _told(warehouse: Warehouse, simulation: Simulation[Any]) -> None:
    past_the_pivot = any(call.label == "mail" for call in simulation.calls)
    assert warehouse.on_hand("apple") == (9 if past_the_pivot else 10)
    assert warehouse.on_hand("mails") <= past_the_pivot


class WritesBeforeTheFence(Warehouse):
    @activity.defn
    def take(self, item: str) -> None:
        with self.database:
            self.add(item, -1)
            fence.once(self.database, lambda: None, payload=item)


class HashesTheTime(Warehouse):
    @activity.defn
    def take(self, item: str) -> None:
        with self.database:
            fence.once(self.database, lambda: self.add(item, -1), payload=[item, time.time_ns()])


class DoesNotGuard(Warehouse):
    @activity.defn
    def put_back(self, item: str) -> None:
        with self.database:
            fence.once(self.database, lambda: self.add(item, 1), payload=item, guard=False)


class CommitsNothing(Warehouse):
    """The undo that found nothing rolls back, and its record is gone with it."""

    @activity.defn
    def put_back(self, item: str) -> None:
        done: list[int] = []

        def effect() -> None:
            self.add(item, 1)
            done.append(1)

        fence.once(self.database, effect, payload=item)
        if done:
            self.database.commit()
        else:
            self.database.rollback()


class InsertsARow(Warehouse):
    """A unique row makes a repeat harmless, and refuses nothing that comes after the undo."""

    def __init__(self) -> None:
        super().__init__()
        with self.database:
            self.database.execute("CREATE TABLE picked (item TEXT PRIMARY KEY)")

    def on_hand(self, item: str) -> int:
        picked = self.database.execute("SELECT count(*) FROM picked WHERE item = ?", (item,)).fetchone()[0]
        return 10 - int(picked)

    @activity.defn
    def take(self, item: str) -> None:
        with self.database:
            self.database.execute("INSERT INTO picked VALUES (?) ON CONFLICT DO NOTHING", (item,))

    @activity.defn
    def put_back(self, item: str) -> None:
        with self.database:
            self.database.execute("DELETE FROM picked WHERE item = ?", (item,))


CORRECT = [
    Correct(name="pick", run=Pick.run, args=(["apple", "pear"],), setup=Warehouse, check=counted),
    Correct(
        name="pick-tell",
        run=PickAndTell.run,
        args=("apple",),
        setup=Warehouse,
        check=_told,
        without_compensation=("mail",),
    ),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, setup: Callable[[], Warehouse]) -> Buggy:
    return Buggy(
        name=name,
        culprit=culprit,
        bug=bug,
        expected=expected,
        run=Pick.run,
        args=(["apple", "pear"],),
        setup=setup,
        check=counted,
    )


BUGGY = [
    _buggy(
        "effect-before-the-fence",
        ("take",),
        "The activity writes first, and calls the fence afterwards with an effect that does nothing.",
        "the check objects once take has run twice",
        WritesBeforeTheFence,
    ),
    _buggy(
        "payload-with-the-time",
        ("take",),
        "The payload has the time in it: a second attempt has another one.",
        "KeyMisuse in a second attempt of take",
        HashesTheTime,
    ),
    _buggy(
        "undo-not-guarded",
        ("take",),
        "`guard=False` on the undo of a fenced step: it puts back what was never taken.",
        "the check objects, after fails_before('take')",
        DoesNotGuard,
    ),
    _buggy(
        "fence-not-committed",
        ("take",),
        "The undo that found nothing rolls its record back: a step that comes later is not refused.",
        "take took effect after its undo and stands",
        CommitsNothing,
    ),
    _buggy(
        "unique-row-is-no-fence",
        ("take",),
        "A unique constraint in place of the fence: a step that comes after its undo inserts the row again.",
        "take took effect after its undo and stands",
        InsertsARow,
    ),
]
