"""The payout: a tree of batches, a transfer at each leaf; and a batch that is paid as a whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, is_cancelled_exception

from temporal_saga import Declined, Saga, StepOutcome, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Ledger
    from .models import Batch, Outcome, Summary, Transfer

T = TypeVar("T")
R = TypeVar("R")


async def in_waves(call: Callable[[T], Coroutine[Any, Any, R]], items: Sequence[T], at_once: int) -> list[R]:
    """Calls a function for each item, so many at once, and returns what it returns.

    A coroutine is made when its wave begins: one made earlier would never be awaited, should an earlier wave fail.
    """
    results: list[R] = []
    for first in range(0, len(items), at_once):
        results += await asyncio.gather(*[call(item) for item in items[first : first + at_once]])
    return results


@workflow.defn
class PayOne:
    """One transfer. A no is a result. It may hand its saga to a parent that may want it back."""

    @workflow.run
    async def run(self, transfer: Transfer, hand_over: bool) -> Outcome:
        """Pays, or takes back what it began."""
        try:
            async with Saga("transfer", activity_options=presets.standard()) as saga:
                await saga.execute_activity_method(Ledger.debit, transfer, compensation=Ledger.return_debit)
                await saga.execute_activity_method(Ledger.credit, transfer, compensation=Ledger.reverse_credit)
                return Outcome(transfer.number, saga=saga.detach() if hand_over else None)
        except ActivityError as error:
            answer = error.cause
            if not isinstance(answer, ApplicationError) or answer.type != "Declined":
                raise
            return Outcome(transfer.number, answer.message)


@workflow.defn
class PayAll:
    """A payout, or a part of one. What fails is a line in the summary, and stops nothing."""

    @workflow.run
    async def run(self, batch: Batch) -> Summary:
        """Pays what can be paid."""
        if batch.count <= batch.leaf:
            transfers = await workflow.execute_activity_method(Ledger.load, batch, **presets.standard())
            parts = await in_waves(self._pay, transfers, batch.at_once)
        else:
            parts = await in_waves(self._pay_part, _parts(batch), batch.at_once)
        summary = sum(parts, Summary())
        if workflow.info().parent is None and summary.failed:
            await workflow.execute_activity_method(
                Ledger.tell_admin, args=[batch.payout, summary], **presets.forward_only()
            )
        return summary

    async def _pay(self, transfer: Transfer) -> Summary:
        name = f"transfer {transfer.number}"
        try:
            outcome = await workflow.execute_child_workflow(
                PayOne.run,
                args=[transfer, False],
                id=f"{transfer.payout}-{transfer.number}",
                # The default terminates the children of a run that closes: no saga of theirs would unwind.
                parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
            )
        except ChildWorkflowError as error:
            if is_cancelled_exception(error):
                raise
            return Summary(failed=1, named=[f"{name}: a fault"])
        return Summary(paid=1) if outcome.reason is None else Summary(failed=1, named=[f"{name}: {outcome.reason}"])

    async def _pay_part(self, part: Batch) -> Summary:
        return await workflow.execute_child_workflow(
            PayAll.run,
            part,
            id=f"{part.payout}-{part.first}-{part.count}",
            parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
        )


@workflow.defn
class PayAllOrNothing:
    """A batch that is paid as a whole. The saga of each transfer becomes a part of this one."""

    @workflow.run
    async def run(self, batch: Batch) -> Summary:
        """Pays everything; or takes everything back, and says what stood in the way."""
        transfers = await workflow.execute_activity_method(Ledger.load, batch, **presets.standard())
        try:
            async with Saga("payout", order="concurrent") as saga:

                async def pay(transfer: Transfer) -> None:
                    outcome = await saga.execute_child_workflow(
                        PayOne.run, args=[transfer, True], key=str(transfer.number), compensation_from=_take_over
                    )
                    if outcome.reason is not None:
                        raise Declined(f"transfer {transfer.number}: {outcome.reason}")

                await in_waves(pay, transfers, batch.at_once)
        except Declined as error:
            summary = Summary(failed=len(transfers), named=[error.message])
            await workflow.execute_activity_method(
                Ledger.tell_admin, args=[batch.payout, summary], **presets.forward_only()
            )
            return summary
        return Summary(paid=len(transfers))


def _take_over(step: StepOutcome[Any, Outcome]) -> Any:
    return step.result.saga if step.result is not None else None


def _parts(batch: Batch) -> list[Batch]:
    """As few parts as make each fit one leaf; in as many levels as it takes to have at most 50 in each."""
    size = batch.leaf
    while batch.count > 50 * size:
        size *= 50
    end = batch.first + batch.count
    return [
        Batch(batch.payout, first, min(size, end - first), batch.leaf, batch.at_once)
        for first in range(batch.first, end, size)
    ]
