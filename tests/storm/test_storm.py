"""A short storm, and what it is judged by. `make storm` makes a long one."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import Ledger, Posting
from examples.order.models import Payment
from examples.order.payments import PaymentProvider
from examples.order.store import Store

from .faults import UNDOS, Fault, fault_of
from .judge import STEPS, End, Verdict, judge_orders, judge_transfers
from .operator import action_of
from .resets import reset_of
from .storm import Options, storm

COMPLETED, UNDONE = End(True), End(False)
UNDO_OF = {step: undo for undo, step in UNDOS.items()}


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_nothing_is_lost_doubled_or_stuck_in_a_short_storm() -> None:
    """Rules 1 to 9 on a real server, while workers and server are killed; each history replays."""
    figures = storm(Options(transfers=16, seed="short"))
    assert figures.wrong == []
    assert (figures.transfers, figures.orders) == (16, 4)
    assert min(figures.kills, figures.faults, figures.cancels, figures.resets) > 0, str(figures)
    assert (figures.deployments, figures.on_both > 0, figures.patched > 0) == (1, True, True), str(figures)


def test_a_seed_reproduces_the_plan() -> None:
    """And another seed makes another plan."""

    def faults(seed: str) -> list[Fault]:
        return [fault_of(seed, f"transfer-{number}", step) for number in range(20) for step in (*STEPS, *UNDOS)]

    def plan(seed: str) -> list[object]:
        decisions = [action_of(seed, "transfer-1", "deposit", True, number) for number in range(20)]
        return [*faults(seed), *decisions, *(reset_of(seed, f"transfer-{number}") for number in range(20))]

    assert plan("1") == plan("1")
    assert plan("1") != plan("2")
    kinds = {fault.kind for seed in "123" for fault in faults(seed)}
    assert kinds == {"none", "fails", "lost", "slow", "late", "refused"}


# --- the judge: it sees each kind of wrong, and nothing else


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    bank = Bank(Ledger(tmp_path / "bank.sqlite3"))
    for name in ("alice", "bob"):
        bank.ledger.open_account(name, "EUR", 100_00)
    return bank


def enter(bank: Bank, *memos: str) -> None:
    """Make entries that move no money."""
    with bank.ledger.transaction() as db:
        for memo in memos:
            bank.ledger.post(db, f"{memo} {Random().random()}", f"{memo} t", Posting("alice", 0))


def verdict(bank: Bank, end: End) -> tuple[int, int]:
    found = judge_transfers(bank, {"t": end}, 200_00)
    return len(found.lost), len(found.doubled)


@pytest.mark.parametrize("step", STEPS)
def test_the_judge_of_transfers(bank: Bank, step: str) -> None:
    undo, others = UNDO_OF[step], [other for other in STEPS if other != step]
    enter(bank, *others)
    assert verdict(bank, COMPLETED) == (1, 0)  # one is missing
    assert verdict(bank, UNDONE) == (2, 0)  # two stand
    enter(bank, step)
    assert verdict(bank, COMPLETED) == (0, 0)
    enter(bank, *(UNDO_OF[other] for other in others))
    assert verdict(bank, UNDONE) == (1, 0)
    assert verdict(bank, End(False, frozenset([step]))) == (0, 0)  # it stands, and is named
    enter(bank, undo)
    assert verdict(bank, UNDONE) == (0, 0)
    assert verdict(bank, COMPLETED) == (3, 0)
    enter(bank, undo)
    assert verdict(bank, UNDONE) == (0, 1)
    enter(bank, step)
    assert verdict(bank, UNDONE) == (0, 1)


def test_the_judge_of_transfers_counts_the_money(bank: Bank) -> None:
    assert judge_transfers(bank, {}, 200_00) == Verdict()
    assert len(judge_transfers(bank, {}, 200_01).lost) == 1


@pytest.fixture
def shop(tmp_path: Path) -> Store:
    store = Store(tmp_path / "shop.sqlite3")
    store.add_card("o", 100)
    put(store, 10)
    return store


def put(store: Store, left: int) -> None:
    store.add_product("cup", 1, left)
    store.add_carrier("swift", left, left)


def ship(store: Store) -> None:
    with store.transaction() as db:
        db.execute("INSERT INTO shipments VALUES ('o', 'x')")


def test_the_judge_of_orders(shop: Store) -> None:
    def found(end: End) -> tuple[int, int]:
        verdict = judge_orders(shop, {"o": end}, 10)
        return len(verdict.lost), len(verdict.doubled)

    assert found(UNDONE) == (0, 0)
    assert found(COMPLETED) == (1, 0)  # nothing was shipped
    put(shop, 9)
    assert found(UNDONE) == (3, 0)  # a cup, a pickup and a label are gone
    named = frozenset(["allocate", "book_pickup", "print_label"])
    assert found(End(False, named)) == (0, 0)
    PaymentProvider(shop).charge("k", Payment("o", 1))
    assert found(End(False, named)) == (1, 0)
    assert found(End(False, named | {"charge"})) == (0, 0)
    ship(shop)
    assert found(COMPLETED) == (0, 0)
    PaymentProvider(shop).charge("k2", Payment("o", 1))
    put(shop, 10)
    assert found(COMPLETED) == (0, 4)  # paid twice; and nothing has left the shelf


def test_the_pages_add_up() -> None:
    """The totals of each table of `docs/under-fire.md` are the sums of its rows, and README has those of the newest."""
    root = Path(__file__).resolve().parents[2]
    page, readme = ((root / name).read_text(encoding="utf-8") for name in ("docs/under-fire.md", "README.md"))
    row = re.compile(r"^\| (?:sagas, `.*`|\*\*all sagas\*\*) \| (.*) \|$", re.MULTILINE)
    tables = [
        [[int(number.replace(",", "")) for number in each.split(" | ")] for each in row.findall(part)]
        for part in page.split("\n### ")[1:]
    ]
    for *storms, totals in tables:
        assert [sum(column) for column in zip(*storms, strict=True)] == totals
    names = ("transfers and", "orders,", "kills,", "faults,", "cancels,", "effects lost,", "doubled,", "runs stuck,")
    said, newest = " ".join(readme.split()), tables[0][-1]
    assert [name for name, total in zip(names, newest, strict=False) if f"{total:,} {name}" not in said] == []
