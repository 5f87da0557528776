"""The standing order, twice: a payment that a schedule starts in each period, and a loop that pays them all."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga, business_key, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Bank
    from .models import LoopState, Outcome, Payment, StandingOrder

# The time at which a run was due, and not the one at which it began. A run that comes late knows its period by it.
DUE = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")

CATCH_UP = 3
"""So many periods are made up for if the loop could not run. The schedule has its own, as a time."""


async def pay(order: StandingOrder, period: int) -> Outcome:
    """Pays a period, unless it is paid. A no is an answer; a fault that outlasts its retries is raised, all undone."""
    key = business_key("standing-order", order.id, period)
    payment = Payment(key, order.id, period, order.debtor, order.creditor, order.amount)
    try:
        async with Saga("payment", activity_options=presets.patient()) as saga:
            await saga.execute_activity_method(Bank.claim_period, payment, compensation=Bank.release_period)
            await saga.execute_activity_method(Bank.debit, payment, compensation=Bank.return_debit)
            await saga.execute_activity_method(Bank.credit, payment, compensation=Bank.reverse_credit)
    except ActivityError as error:
        answer = error.cause
        if not isinstance(answer, ApplicationError) or answer.type != "Declined":
            raise
        return Outcome(period, error.activity_type == "claim_period", answer.message)
    return Outcome(period, True)


@workflow.defn
class PayPeriod:
    """One payment. A schedule starts it."""

    @workflow.run
    async def run(self, order: StandingOrder) -> Outcome:
        """Pays the period in which it was due."""
        due = workflow.info().typed_search_attributes.get(DUE)
        if due is None:
            raise ApplicationError("only a schedule may start this")
        return await pay(order, int(due.timestamp()) // order.every)


@workflow.defn
class PayForever:
    """All payments, one after another."""

    @workflow.init
    def __init__(self, state: LoopState) -> None:
        self._state = state

    @workflow.run
    async def run(self, state: LoopState) -> LoopState:
        """Returns how it stands at the end: it was stopped, or all payments were made."""
        handled = 0
        while not self._is_over and handled < state.periods_per_run:
            period = await self._next_period()
            if period is not None:
                self._state = self._state.after(await self._pay(period))
                handled += 1
        if not self._is_over:
            # All its handlers end at once, and no saga is open between two periods: there is nothing to wait for.
            workflow.continue_as_new(self._state)
        return self._state

    async def _next_period(self) -> int | None:
        """Waits for the next period. Returns None if something has changed meanwhile."""
        if self._state.is_paused:
            await workflow.wait_condition(lambda: not self._state.is_paused or self._state.is_stopped)
            self._skip_to(self._now + 1)
        elif self._state.next_period is None:
            self._skip_to(self._now + 1)
        else:
            self._skip_to(self._now - CATCH_UP + 1)
        period = self._state.next_period
        assert period is not None
        wait = period * self._state.order.every - workflow.time()
        if wait <= 0:
            return period
        try:
            await workflow.wait_condition(
                lambda: self._state.is_paused or self._state.is_stopped, timeout=timedelta(seconds=wait)
            )
        except asyncio.TimeoutError:
            return period
        return None

    async def _pay(self, period: int) -> Outcome:
        try:
            return await pay(self._state.order, period)
        except ActivityError as error:  # all is undone; the other periods are still to be paid
            workflow.logger.error("period %d is not paid: %s", period, error.activity_type)
            return Outcome(period, False, f"{error.activity_type} failed")

    def _skip_to(self, period: int) -> None:
        period = max(period, self._state.next_period or period)
        self._state = dataclasses.replace(self._state, next_period=period)

    @property
    def _now(self) -> int:
        return int(workflow.time()) // self._state.order.every

    @property
    def _is_over(self) -> bool:
        payments = self._state.order.payments
        return self._state.is_stopped or (payments is not None and self._state.paid >= payments)

    # The handlers only record. The payment that is under way is made as it began.

    @workflow.update
    async def change_amount(self, amount: int) -> LoopState:
        """From the next payment on."""
        order = dataclasses.replace(self._state.order, amount=amount)
        self._state = dataclasses.replace(self._state, order=order)
        return self._state

    @change_amount.validator
    def _validate_change_amount(self, amount: int) -> None:
        if amount <= 0:
            raise ValueError(f"{amount} is not an amount")

    @workflow.signal
    def pause(self) -> None:
        """Pays nothing. The periods that begin meanwhile are not made up for."""
        self._state = dataclasses.replace(self._state, is_paused=True)

    @workflow.signal
    def resume(self) -> None:
        """Goes on with the next period that begins."""
        self._state = dataclasses.replace(self._state, is_paused=False)

    @workflow.signal
    def stop(self) -> None:
        """Ends it, after the payment that is under way."""
        self._state = dataclasses.replace(self._state, is_stopped=True)

    @workflow.query
    def status(self) -> LoopState:
        """How it stands."""
        return self._state
