"""The standing order as a schedule: what the server does by itself, and how to change it."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from .models import StandingOrder
from .workflows import CATCH_UP, PayPeriod


async def create(client: Client, order: StandingOrder, queue: str) -> ScheduleHandle:
    """Pays from the next period on."""
    return await client.create_schedule(
        f"{queue}-{order.id}",
        Schedule(
            action=_action(order, queue),
            # An interval counts from 1970, as our periods do.
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=order.every))]),
            policy=SchedulePolicy(
                # SKIP, the default, would leave a period out while the payment before it waits out an outage.
                overlap=ScheduleOverlapPolicy.BUFFER_ALL,
                # What was due while the server was down. The default is a year.
                catchup_window=timedelta(seconds=CATCH_UP * order.every),
            ),
            state=ScheduleState(limited_actions=order.payments is not None, remaining_actions=order.payments or 0),
        ),
    )


async def change_amount(client: Client, order_id: str, queue: str, amount: int) -> None:
    """From the next payment on. Runs that have begun keep theirs."""

    async def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
        # What is changed is the whole schedule, whose arguments come as the payloads that they were sent as.
        schedule = found.description.schedule
        assert isinstance(schedule.action, ScheduleActionStartWorkflow)
        (order,) = await client.data_converter.decode(schedule.action.args, [StandingOrder])
        schedule.action = _action(dataclasses.replace(order, amount=amount), queue)
        return ScheduleUpdate(schedule)

    await client.get_schedule_handle(f"{queue}-{order_id}").update(update)


async def make_up_for(handle: ScheduleHandle, since: datetime) -> None:
    """Pays the periods that began since then, such as those of a pause. Those that are paid are not paid again."""
    now = datetime.now(timezone.utc)
    await handle.backfill(ScheduleBackfill(since, now, overlap=ScheduleOverlapPolicy.BUFFER_ALL))


def _action(order: StandingOrder, queue: str) -> ScheduleActionStartWorkflow:
    return ScheduleActionStartWorkflow(PayPeriod.run, order, id=f"{queue}-{order.id}", task_queue=queue)
