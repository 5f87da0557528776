"""A saga whose steps speak Pydantic models."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Saga, SagaState

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, PositiveInt


class Payment(BaseModel):
    amount: Decimal
    count: PositiveInt
    at: datetime


class Leg(BaseModel):
    """What goes from one run to the next: a state within a model of the user's."""

    payment: Payment
    state: SagaState | None = None


SEEN: list[tuple[str, Payment]] = []


@activity.defn
async def pay(payment: Payment) -> Payment:
    SEEN.append(("pay", payment))
    return payment


@activity.defn
async def refund(payment: Payment) -> None:
    SEEN.append(("refund", payment))


@workflow.defn
class Pays:
    @workflow.run
    async def run(self, leg: Leg) -> None:
        ten = timedelta(seconds=10)
        async with Saga(
            activity_options={"start_to_close_timeout": ten},
            compensation_options={"start_to_close_timeout": ten},
            state=leg.state,
        ) as saga:
            await saga.execute_activity(pay, leg.payment, compensation=refund)
            if leg.state is None:
                workflow.continue_as_new(Leg(payment=leg.payment, state=saga.detach()))
            raise ApplicationError("it went wrong", type="Boom")
