"""What `explore` finds behind a fence: a repeat that it does not hold back, and a payload that changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow

from temporal_saga import Rejected, Saga, fence, presets
from temporal_saga.testing import (
    Exploration,
    cancel,
    delivered_late,
    delivered_twice,
    explore,
    fails_after,
    worker_lost,
)


class Books:
    """A row for each entry, behind the fence."""

    numbers = count()

    def __init__(self, directory: Path) -> None:
        self.where = directory / f"{next(self.numbers)}.sqlite"
        self.activities: list[Callable[..., Any]] = [self.enter, self.strike]
        with closing(sqlite3.connect(self.where)) as connection, connection:
            fence.create_table(connection)
            connection.execute("CREATE TABLE entry (amount INTEGER)")

    def change(self, amount: int, payload: object = None) -> None:
        with closing(sqlite3.connect(self.where)) as connection, connection:
            fence.once(connection, lambda: self.insert(connection, amount), payload=payload)

    def insert(self, connection: sqlite3.Connection, amount: int) -> None:
        connection.execute("INSERT INTO entry VALUES (?)", (amount,))

    def entries(self) -> list[int]:
        with closing(sqlite3.connect(self.where)) as connection:
            return [amount for (amount,) in connection.execute("SELECT amount FROM entry")]

    @activity.defn
    def enter(self, amount: int) -> None:
        self.change(amount)

    @activity.defn
    def strike(self, amount: int) -> None:
        self.change(-amount)


class Leaky(Books):
    """One that writes more, behind the fence's back."""

    @activity.defn
    def enter(self, amount: int) -> None:
        super().enter(amount)
        with closing(sqlite3.connect(self.where)) as connection, connection:
            self.insert(connection, 0)


class LeakyInFront(Books):
    """One that writes more in front of the fence."""

    @activity.defn
    def enter(self, amount: int) -> None:
        with closing(sqlite3.connect(self.where)) as connection, connection:
            self.insert(connection, 0)
        super().enter(amount)


class OtherPayload(Books):
    """One whose payload differs each time."""

    @activity.defn
    def enter(self, amount: int) -> None:
        self.change(amount, payload=[amount, next(self.numbers)])


@workflow.defn
class Enter:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=presets.standard()) as saga:
            await saga.execute_activity_method(Books.enter, amount, compensation=Books.strike)


@pytest.fixture
def explored(tmp_path: Path) -> Callable[..., Exploration]:
    def one_of_each(books: Books, simulation: Any) -> None:
        assert len(books.entries()) == len(set(books.entries())), books.entries()

    def explored(books: type[Books], **options: Any) -> Exploration:
        return explore(Enter.run, 7, setup=lambda: books(tmp_path), check=one_of_each, fail=False, **options)

    return explored


@pytest.mark.parametrize("fault", [delivered_twice("enter"), delivered_late("enter")])
def test_an_effect_behind_the_back_of_the_fence(explored: Callable[..., Exploration], fault: Any) -> None:
    assert explored(Books, plan=[fault]).violations == []
    (violation,) = explored(Leaky, plan=[fault]).violations
    assert (violation.kind, violation.message.partition(" (")[0]) == ("the check objects", "[7, 0, 0]")
    assert "! delivered again: its function ran" in violation.timeline


def test_it_is_found_by_its_kind(explored: Callable[..., Exploration]) -> None:
    assert [each.plan for each in explored(Leaky, kinds=["delivered_twice"]).violations] == [
        (delivered_twice("enter"),)
    ]
    exploration = explored(LeakyInFront, kinds=["cancel", "delivered_late"], faults=2)
    assert [each.plan for each in exploration.violations] == [(cancel(at=2), delivered_late("enter"))]
    assert "! delivered again: its function raised Fenced: " in exploration.violations[0].timeline


@pytest.mark.parametrize("fault", [delivered_twice("enter"), delivered_late("enter"), worker_lost("enter")])
def test_a_payload_that_changes(explored: Callable[..., Exploration], fault: Any) -> None:
    (violation,) = explored(OtherPayload, plan=[fault]).violations
    assert (violation.kind, violation.plan) == ("key misused", (fault,))
    assert "KeyMisuse: enter" in violation.timeline


def test_a_late_repeat_that_the_fence_refuses(explored: Callable[..., Exploration]) -> None:
    assert explored(Books, faults=2).violations == []
    assert explored(Books, plan=[fails_after("enter")]).violations == []


class OneFile(Books):
    """Each run empties the entries, and leaves the fence's table as it is: its keys are those of the run before."""

    def __init__(self, directory: Path) -> None:
        self.where = directory / "one.sqlite"
        self.activities = [self.enter, self.strike]
        with closing(sqlite3.connect(self.where)) as connection, connection:
            fence.create_table(connection)
            connection.execute("CREATE TABLE IF NOT EXISTS entry (amount INTEGER UNIQUE)")
            connection.execute("DELETE FROM entry")


class OneFileKept(OneFile):
    """No run empties anything, and an entry that is there already is refused."""

    def __init__(self, directory: Path) -> None:
        with closing(sqlite3.connect(directory / "one.sqlite")) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (amount INTEGER UNIQUE)")
        super().__init__(directory)

    def change(self, amount: int, payload: object = None) -> None:
        with closing(sqlite3.connect(self.where)) as connection, connection:
            try:
                connection.execute("INSERT INTO kept VALUES (?)", (amount,))
            except sqlite3.IntegrityError as error:
                raise Rejected("there already") from error
        super().change(amount)


def entered(books: Books, simulation: Any) -> None:
    assert simulation.status != "completed" or books.entries() == [7]


@pytest.mark.parametrize(
    ("books", "said"), [(OneFile, "the check objects: assert "), (OneFileKept, "ends otherwise: it ended failed")]
)
def test_runs_that_share_a_world(books: type[OneFile], said: str, tmp_path: Path) -> None:
    """`explore` says so before it tries any fault: what the faults would show is no fault of the workflow."""
    exploration = explore(Enter.run, 7, setup=lambda: books(tmp_path), check=entered, fail=False)
    (violation,) = exploration.violations
    assert (violation.plan, violation.kind, exploration.tried) == ((), "the world is not fresh", 1)
    assert violation.message.startswith(f"in a second run {said}")
    assert violation.message.endswith("so empty a fence's table too")


@pytest.mark.parametrize("ci", ["", "true"])
@pytest.mark.parametrize("first", [["a", "b", "c"], ["flights", "hotels", "payments"]])
def test_the_rest_of_an_assertion_is_shown(
    first: list[str], ci: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pytest puts the difference of two lists in its middle, even if the lists are equal, and the whole of it in CI."""
    monkeypatch.setenv("CI", ci)

    def check(books: Books, simulation: Any) -> None:
        two = 2
        assert first == list(first) and two == 1  # noqa: PT018 - as people write it

    exploration = explore(Enter.run, 7, setup=lambda: Books(tmp_path), check=check, fail=False)
    assert "and 2 == 1) (" in exploration.violations[0].message
