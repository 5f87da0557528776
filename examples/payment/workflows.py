"""The payment: authorize, capture in parts, settle; then refunds, in parts too."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga, business_key, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Cashier
    from .models import Authorization, Capture, Finding, Order, Payout, Refund, State, Status

# Three tries within a second, then a person: goods wait behind a capture.
SOON_A_PERSON = presets.fast(retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_attempts=3))


@workflow.defn
class Payment:
    """Takes the money for an order, all parts or none; then gives back what is asked for."""

    @workflow.init
    def __init__(self, order: Order) -> None:
        self._order = order
        self._saga = Saga(
            "payment", activity_options=presets.standard(), park_reminder=(Cashier.page_somebody, timedelta(hours=4))
        )
        self._state, self._authorization = State.RUNNING, ""
        self._captured = 0
        self._refunds: dict[str, int] = {}

    @workflow.run
    async def run(self, order: Order) -> Status:
        """Returns how it ended, once nothing can be refunded any more."""
        try:
            await self._pay(order)
            self._state = State.SETTLED
            with suppress(asyncio.TimeoutError):
                within = timedelta(seconds=order.refund_within)
                await workflow.wait_condition(lambda: self._refunded == self._captured, timeout=within)
        except ActivityError as error:
            answer = error.cause
            if not isinstance(answer, ApplicationError) or answer.type != "Declined":
                raise
            self._state = State.DECLINED
        finally:
            # Also after a cancel: a refund that is under way is not cut short.
            await workflow.wait_condition(workflow.all_handlers_finished)
        return self.status()

    async def _pay(self, order: Order) -> None:
        async with self._saga as saga:
            amount = Authorization(order.card, sum(order.parts))
            self._authorization = await saga.execute_activity_method(
                Cashier.authorize, amount, compensation=Cashier.cancel
            )
            for part in order.parts:
                # What is refused unwinds. What stays unknown waits: to cancel a capture that may have happened, and
                # then to ask the customer again, is the dearer mistake.
                await saga.execute_activity_method(
                    Cashier.capture,
                    Capture(self._authorization, part),
                    compensation=Cashier.cancel,
                    on_step_failure="park",
                    **SOON_A_PERSON,
                )
                self._captured += part
            saga.pivot()
            await saga.execute_activity_method(Cashier.settle, self._authorization, **presets.forward_only())

    @workflow.update
    async def refund(self, refund: Refund) -> int:
        """Gives a part back; returns what was given back so far."""
        self._refunds[refund.id] = refund.amount  # before the first await: the next validator sees it
        # Past the pivot nothing is undone, so this is not a step. The key is made of business data: the same in a run
        # that was reset, and in another run for the same order.
        key = business_key("refund", self._order.id, refund.id)
        await workflow.execute_activity_method(
            Cashier.refund, Payout(key, self._authorization, refund.amount), **presets.forward_only()
        )
        return self._refunded

    @refund.validator
    def _validate_refund(self, refund: Refund) -> None:
        if self._state is not State.SETTLED:
            raise ValueError("nothing is settled yet")
        if refund.id in self._refunds:
            raise ValueError(f"refund {refund.id} has been made")
        if not 0 < refund.amount <= self._captured - self._refunded:
            raise ValueError(f"between 0 and {self._captured - self._refunded} can be refunded")

    @workflow.update
    async def reconcile(self) -> list[Finding]:
        """Asks the provider about each step whose outcome is not known."""
        unknown = [step for step in self._saga.report().steps if step.state in ("PARKED", "UNKNOWN")]
        return [
            Finding(
                step.name, step.key, await workflow.execute_activity_method(Cashier.look_up, step.key, **presets.fast())
            )
            for step in unknown
        ]

    @reconcile.validator
    def _validate_reconcile(self) -> None:
        if not self._authorization:
            raise ValueError("nothing is authorized")

    @workflow.query
    def status(self) -> Status:
        """The state of the payment. The query `saga_report` has the outcome of each step."""
        return Status(self._state, self._captured, self._refunded)

    @property
    def _refunded(self) -> int:
        return sum(self._refunds.values())
