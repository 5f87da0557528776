"""What the bank does for a transfer: each step, and what undoes it.

Each is one transaction, which makes an entry and leaves the fence's record of it. A repeat (the reply
was lost, the worker died) finds the record and changes nothing; an undo reverses what was posted, and
keeps an attempt that comes later from posting it.
"""

from __future__ import annotations

from collections.abc import Callable

from temporalio import activity

from temporal_saga import Rejected, current_step, fence

from .ledger import Ledger, Posting, in_transit
from .models import Transfer


class Bank:
    """The activities, as methods: they share a ledger. They block, so run them in threads."""

    def __init__(self, ledger: Ledger) -> None:
        """Keeps the ledger that the activities write to."""
        self.ledger = ledger

    @property
    def activities(self) -> list[Callable[..., object]]:
        """What a worker registers."""
        return [
            self.check,
            self.withdraw,
            self.return_withdrawal,
            self.deposit,
            self.reverse_deposit,
            self.record,
            self.void_record,
        ]

    @activity.defn
    def check(self, transfer: Transfer) -> None:
        """Refuses an order that can never succeed.

        Funds and frozen accounts are not looked at: they may change until the money moves, so only
        the entry itself can tell.
        """
        if transfer.amount <= 0:
            raise Rejected("the amount must be above zero")
        if transfer.source == transfer.target:
            raise Rejected("source and target are the same account")
        for name in (transfer.source, transfer.target):
            account = self.ledger.account(name)
            if account is None or not account.customer:
                raise Rejected(f"unknown account {name}")
            if account.currency != transfer.currency:
                raise Rejected(f"account {name} is in {account.currency}, not {transfer.currency}")

    @activity.defn
    def withdraw(self, transfer: Transfer) -> int:
        """Takes the money from the source; until the deposit it is in transit."""
        return self._post(
            transfer,
            Posting(transfer.source, -transfer.amount),
            Posting(in_transit(transfer.currency), transfer.amount),
        )

    @activity.defn
    def return_withdrawal(self, transfer: Transfer) -> None:
        """Undoes `withdraw`."""
        self._reverse(transfer)

    @activity.defn
    def deposit(self, transfer: Transfer) -> int:
        """Gives the money in transit to the target."""
        return self._post(
            transfer,
            Posting(in_transit(transfer.currency), -transfer.amount),
            Posting(transfer.target, transfer.amount),
        )

    @activity.defn
    def reverse_deposit(self, transfer: Transfer) -> None:
        """Undoes `deposit`."""
        self._reverse(transfer)

    @activity.defn
    def record(self, transfer: Transfer) -> int:
        """Enters the finished transfer in the books; the entry's number is the receipt."""
        return self._post(transfer)

    @activity.defn
    def void_record(self, transfer: Transfer) -> None:
        """Undoes `record`."""
        self._reverse(transfer)

    def _post(self, transfer: Transfer, *postings: Posting) -> int:
        key, memo = current_step().key, _memo(transfer)
        with self.ledger.transaction() as db:
            number = fence.once(db, lambda: self.ledger.post(db, key, memo, *postings), payload=transfer)
        assert number is not None, "a step has a result"
        return number

    def _reverse(self, transfer: Transfer) -> None:
        step, memo = current_step(), _memo(transfer)
        done = step.forward_key
        assert done is not None, "armed with its step, so it has the step's key"
        with self.ledger.transaction() as db:
            fence.once(db, lambda: self.ledger.reverse(db, done, step.key, memo), payload=transfer)


def _memo(transfer: Transfer) -> str:
    return f"{activity.info().activity_type} {transfer.id}"
