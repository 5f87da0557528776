"""What may be in the books at the end: of what was completed each effect once, of the rest what a report names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from examples.money_transfer.activities import Bank
from examples.money_transfer.ledger import in_transit
from examples.order.store import Store

from .faults import UNDOS

STEPS = ("withdraw", "deposit", "record")


@dataclass(frozen=True)
class End:
    """How a workflow ended.

    Attributes:
        completed: Whether it says that it has done what it was asked for.
        named: The steps that its report names as not undone.
    """

    completed: bool
    named: frozenset[str] = frozenset()


@dataclass
class Verdict:
    """What is wrong in the books; a line for each.

    Attributes:
        lost: What should stand and does not, or stands and is not named.
        doubled: What happened more than once.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def judge_transfers(bank: Bank, ends: Mapping[str, End], total: int) -> Verdict:
    """Look at each transfer's entries; the ids are those of the workflows, and of the transfers."""
    verdict = Verdict()
    entries: dict[str, Counter[str]] = {id: Counter() for id in ends}
    with bank.ledger.transaction() as db:
        for (memo,) in db.execute("SELECT memo FROM entries").fetchall():
            what, _, id = memo.partition(" ")
            if id in entries:
                entries[id][what] += 1
    undo_of = {step: undo for undo, step in UNDOS.items()}
    for id, end in ends.items():
        for step in STEPS:
            done, undone = entries[id][step], entries[id][undo_of[step]]
            line = f"{id}: {step} {done} times, undone {undone} times; {end}"
            if done > 1 or undone > 1 or undone > done:
                verdict.doubled.append(line)
            elif (done, undone) != (1, 0) if end.completed else done != undone and step not in end.named:
                verdict.lost.append(line)
    balances = {account.name: account.balance for account in bank.ledger.accounts()}
    if bank.ledger.total("EUR") + balances[in_transit("EUR")] != total:
        verdict.lost.append(f"the customers and the transit own {balances}, not {total} in all")
    return verdict


def judge_orders(store: Store, ends: Mapping[str, End], stock: int) -> Verdict:
    """Look at each order's payments, and at the shelf and the carriers; each order has a card of its own."""
    verdict = Verdict()
    shipped = {id for (id,) in store.rows("SELECT order_id FROM shipments")}
    charged = Counter(card for (card,) in store.rows("SELECT card FROM payments WHERE state = 'charged'"))
    for id, end in ends.items():
        line = f"{id}: charged {charged[id]} times, shipped: {id in shipped}; {end}"
        if charged[id] > 1:
            verdict.doubled.append(line)
        elif (end.completed and id not in shipped) or (charged[id] != (id in shipped) and "charge" not in end.named):
            verdict.lost.append(line)

    def kept(step: str) -> int:
        return sum(step in end.named for id, end in ends.items() if id not in shipped)

    ((on_hand,),) = store.rows("SELECT on_hand FROM products WHERE sku = 'cup'")
    ((pickups, labels),) = store.rows("SELECT sum(pickups), sum(labels) FROM carriers")
    for what, left, step in (
        ("cups", on_hand, "allocate"),
        ("pickups", pickups, "book_pickup"),
        ("labels", labels, "print_label"),
    ):
        # A step that is named may or may not have had its effect.
        gone, least = stock - left, len(shipped)
        if gone < least:
            verdict.doubled.append(f"{gone} {what} are gone, {least} orders were shipped")
        if gone > least + kept(step):
            verdict.lost.append(f"{gone} {what} are gone, {least} orders were shipped, {kept(step)} are named")
    return verdict
