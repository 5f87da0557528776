"""The transfer: withdraw, wait for a review if it is large, deposit, record."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Bank
    from .models import Decision, Review, Transfer, TransferResult, TransferStatus

REVIEW_WINDOW = timedelta(hours=24)


@workflow.defn
class MoneyTransfer:
    """Moves money from one account to another, or leaves both as they were."""

    @workflow.init
    def __init__(self, transfer: Transfer) -> None:
        """Knows from the start whether a review is due, so that one may come at any moment."""
        self._status = TransferStatus.RUNNING
        self._review: Review | None = None
        self._review_due = transfer.amount > transfer.review_over

    @workflow.run
    async def run(self, transfer: Transfer) -> TransferResult:
        """Returns how the transfer ended. An order that can never succeed fails."""
        try:
            result = await self._transfer(transfer)
        except (Exception, asyncio.CancelledError) as error:
            cause = error.cause if isinstance(error, ActivityError) else None
            if not (isinstance(cause, ApplicationError) and cause.type == "Declined"):
                cancelled = is_cancelled_exception(error)
                self._status = TransferStatus.CANCELLED if cancelled else TransferStatus.FAILED
                raise
            # The bank's no is an answer like any other. The saga has unwound before it got here.
            result = TransferResult(TransferStatus.DECLINED, reason=cause.message)
        self._status = result.status
        return result

    async def _transfer(self, transfer: Transfer) -> TransferResult:
        # No step of the saga: it has no effect, so there is nothing to undo. Fast: it only reads.
        await workflow.execute_activity_method(Bank.check, transfer, **presets.fast())

        # Standard: a restart of the database is not a reason to send the money back.
        async with Saga(activity_options=presets.standard()) as saga:
            # Conflict: transactions meet at a busy customer's account, and soon part again. Should it
            # take longer, nothing has moved yet.
            await saga.execute_activity_method(
                Bank.withdraw, transfer, compensation=Bank.return_withdrawal, **presets.conflict()
            )
            # The review comes after the withdrawal, so that an approved transfer has its money.
            if self._review_due and (objection := await self._objection()):
                await saga.compensate()
                return TransferResult(TransferStatus.REJECTED, reason=objection)
            await saga.execute_activity_method(Bank.deposit, transfer, compensation=Bank.reverse_deposit)
            receipt = await saga.execute_activity_method(Bank.record, transfer, compensation=Bank.void_record)
        return TransferResult(TransferStatus.COMPLETED, receipt=receipt)

    async def _objection(self) -> str | None:
        self._status = TransferStatus.WAITING_FOR_REVIEW
        try:
            await workflow.wait_condition(lambda: self._review is not None, timeout=REVIEW_WINDOW)
        except asyncio.TimeoutError:
            pass  # looked at below: an answer may have come with the timer
        finally:
            self._review_due = False
            self._status = TransferStatus.RUNNING
        if self._review is None:
            return "no review in time"
        if self._review.decision is Decision.REJECT:
            return f"rejected by {self._review.reviewer}"
        return None

    @workflow.update
    def review(self, review: Review) -> None:
        """Approves or rejects a transfer over the limit."""
        self._review = review

    @review.validator
    def _validate_review(self, review: Review) -> None:
        if not review.reviewer.strip():
            raise ValueError("a review needs the reviewer's name")
        if self._review is not None:
            raise ValueError(f"already reviewed by {self._review.reviewer}")
        if not self._review_due:
            raise ValueError("no review is due")

    @workflow.query
    def transfer_status(self) -> TransferStatus:
        """The state of the transfer. The query `saga_report` has the outcome of each step."""
        return self._status
