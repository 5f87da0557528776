"""What the screenshots show: trips. One has a parked undo, one a parked step, and one an undo that is retried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Declined, Saga, current_step, presets


@dataclass(frozen=True)
class Trip:
    """A trip.

    Attributes:
        refused: The activities that fail for good: a person has to decide.
        down: The activities whose provider does not answer.
        full: Whether the insurer declines.
        waits: Seconds until the insurance is bought.
    """

    refused: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    full: bool = False
    waits: float = 0


async def _act(trip: Trip) -> None:
    name = activity.info().activity_type
    if name in trip.refused:
        raise ApplicationError("no", type="AccountClosed", non_retryable=True)
    if name in trip.down:
        raise ConnectionError(current_step().key)


@activity.defn
async def book_hotel(trip: Trip) -> None:
    await _act(trip)


@activity.defn
async def cancel_hotel(trip: Trip) -> None:
    await _act(trip)


@activity.defn
async def book_flight(trip: Trip) -> None:
    await _act(trip)


@activity.defn
async def cancel_flight(trip: Trip) -> None:
    await _act(trip)


@activity.defn
async def charge(trip: Trip) -> None:
    await _act(trip)


@activity.defn
async def refund(trip: Trip) -> None:
    await _act(trip)


@activity.defn
async def insure(trip: Trip) -> None:
    if trip.full:
        raise Declined("too far")
    await _act(trip)


@workflow.defn
class BookTrip:
    """Books a trip, or nothing."""

    @workflow.run
    async def run(self, trip: Trip) -> None:
        async with Saga(
            "trip", activity_options=presets.standard(), on_step_failure="park", on_compensation_failure="park"
        ) as saga:
            await saga.execute_activity(book_hotel, trip, compensation=cancel_hotel)
            await saga.execute_activity(charge, trip, compensation=refund)
            await saga.execute_activity(book_flight, trip, compensation=cancel_flight)
            if trip.waits:
                await workflow.sleep(timedelta(seconds=trip.waits))
            await saga.execute_activity(insure, trip)


ACTIVITIES = [book_hotel, cancel_hotel, charge, refund, book_flight, cancel_flight, insure]

TRIPS = {
    "trip-1040": Trip(),
    "trip-1041": Trip(waits=7200),
    "trip-1042": Trip(refused=("refund",), full=True),
    "trip-1043": Trip(),
    "trip-1044": Trip(down=("cancel_flight",), full=True),
    "trip-1045": Trip(refused=("book_flight",)),
    "trip-1046": Trip(waits=7200),
}
PARKED = ("trip-1042", "trip-1045")
