"""A payment provider in small: it honours idempotency keys and answers in HTTP status codes.

It stands for the real ones, which live elsewhere and commit on their own. What a saga needs of them
is here: a charge with a key happens once, and it can be taken back by the same key, whether or not
it has arrived (Square's `CancelPaymentByIdempotencyKey`).
"""

from __future__ import annotations

from temporal_saga.classification import Profile
from temporal_saga.errors import FailureKind

from .models import Payment
from .store import Store

PROFILE = Profile(statuses={409: FailureKind.FENCED, 422: FailureKind.KEY_MISUSE}, client_retries=False)
"""What its refusals mean, beyond what any HTTP status does."""


class PaymentError(Exception):
    """The provider's answer to a payment that it did not take, as an HTTP client would raise it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers: dict[str, str] = {}


class PaymentProvider:
    """Cards and payments, by idempotency key."""

    def __init__(self, store: Store) -> None:
        """Keeps its tables in the shop's file, so that the example is one file."""
        self._store = store

    def charge(self, key: str, payment: Payment) -> None:
        """Takes the amount from the card, once for each key.

        Raises:
            PaymentError: 402 the card is declined, 409 the payment has been taken back, 422 the key
                has been used for another payment.
        """
        card, amount = payment.card, payment.amount
        with self._store.transaction() as db:
            select = "SELECT card, amount, state FROM payments WHERE key = ?"
            known = db.execute(select, (key,)).fetchone()
            if known == (card, amount, "charged"):
                return
            if known is not None and known[:2] == (card, amount):
                raise PaymentError(409, "the payment has been taken back")
            if known is not None:
                raise PaymentError(422, "the key belongs to another payment")
            debit = "UPDATE cards SET balance = balance - ? WHERE number = ? AND balance >= ?"
            if not db.execute(debit, (amount, card, amount)).rowcount:
                raise PaymentError(402, f"card {card} is declined")
            db.execute("INSERT INTO payments VALUES (?, ?, ?, 'charged')", (key, card, amount))

    def take_back(self, key: str, payment: Payment) -> None:
        """Refunds the charge of that key, or voids it if it has not come yet. Once for each key."""
        card, amount = payment.card, payment.amount
        with self._store.transaction() as db:
            refund = "UPDATE payments SET state = 'refunded' WHERE key = ? AND state = 'charged'"
            if db.execute(refund, (key,)).rowcount:
                credit = "UPDATE cards SET balance = balance + ? WHERE number = ?"
                db.execute(credit, (amount, card))
            else:
                void = "INSERT OR IGNORE INTO payments VALUES (?, ?, ?, 'void')"
                db.execute(void, (key, card, amount))
