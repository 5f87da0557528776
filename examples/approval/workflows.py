"""The purchase: a manager approves it by an update, finance through a webhook."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Desk
    from .models import Answer, Purchase, State, Status

# By default a step that is cancelled is waited for, so that its undo cannot overtake it. Here that would be until the
# attempt times out: nobody heartbeats for a person. The wait is a step of its own and has no effect to undo, so with
# TRY_CANCEL the saga does not wait for it, and gives nothing up.
ON_CANCEL = workflow.ActivityCancellationType.TRY_CANCEL


@workflow.defn
class Buy:
    """Sets the money aside, asks two people, and orders. Without two approvals the money is free again."""

    @workflow.init
    def __init__(self, purchase: Purchase) -> None:
        self._status = Status(State.WAITS_FOR_MANAGER)
        self._manager: Answer | None = None

    @workflow.run
    async def run(self, purchase: Purchase) -> Status:
        """Returns how it ended. A no is an answer; a fault that outlasts its retries fails, once all is undone."""
        async with Saga("purchase", activity_options=presets.standard()) as saga:
            refusal = await self._ask_for_all(saga, purchase)
            if refusal is not None:
                self._status = refusal
                await saga.compensate()
                return refusal
            saga.pivot()
            self._status = Status(State.ORDERED)
            await saga.execute_activity_method(Desk.place_order, purchase, **presets.forward_only())
        return self._status

    async def _ask_for_all(self, saga: Saga, purchase: Purchase) -> Status | None:
        """Returns who is against it, if anyone is."""
        try:
            await saga.execute_activity_method(Desk.reserve_budget, purchase, compensation=Desk.release_budget)
        except ActivityError as error:
            if not isinstance(error.cause, ApplicationError) or error.cause.type != "Declined":
                raise
            return Status(State.REJECTED, "budget")

        with suppress(asyncio.TimeoutError):
            within = timedelta(seconds=purchase.give_up_after)
            await workflow.wait_condition(lambda: self._manager is not None, timeout=within)
        if self._manager is None:
            return Status(State.NO_ANSWER, "manager")
        if not self._manager.approved:
            return Status(State.REJECTED, self._manager.by)

        self._status = Status(State.WAITS_FOR_FINANCE)
        ticket = await saga.execute_activity_method(Desk.open_ticket, purchase, compensation=Desk.withdraw_ticket)
        try:
            answer = await saga.execute_activity_method(
                Desk.await_answer,
                ticket,
                # An attempt lasts until it is time for a reminder, which is the next attempt.
                start_to_close_timeout=timedelta(seconds=purchase.remind_after),
                schedule_to_close_timeout=timedelta(seconds=purchase.give_up_after),
                retry_policy=RetryPolicy(backoff_coefficient=1),
                cancellation_type=ON_CANCEL,
            )
        except ActivityError as error:
            if not isinstance(error.cause, TimeoutError):
                raise
            return Status(State.NO_ANSWER, "finance")
        return None if answer.approved else Status(State.REJECTED, answer.by)

    @workflow.update
    async def decide(self, answer: Answer) -> None:
        """The manager's answer."""
        self._manager = answer

    @decide.validator
    def _validate_decide(self, answer: Answer) -> None:
        if self._manager is not None:
            raise ValueError(f"{self._manager.by} has decided")
        if self._status.state is not State.WAITS_FOR_MANAGER:
            raise ValueError("nobody waits for a decision any more")
        if not answer.by:
            raise ValueError("who decides?")

    @workflow.query
    def status(self) -> Status:
        """Where it stands."""
        return self._status
