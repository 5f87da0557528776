"""One workflow in its four versions. In a project of yours they are four states of one file."""

from __future__ import annotations

from temporalio import workflow

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Agency
    from .models import Trip


class _Booking:
    """What the versions share."""

    def __init__(self) -> None:
        self._is_paid = False

    @workflow.signal
    def paid(self) -> None:
        """The customer has paid."""
        self._is_paid = True

    async def _flight(self, saga: Saga, trip: Trip) -> None:
        await saga.execute_activity_method(Agency.book_flight, trip, compensation=Agency.cancel_flight)

    async def _hotel(self, saga: Saga, trip: Trip) -> None:
        await saga.execute_activity_method(Agency.book_hotel, trip, compensation=Agency.cancel_hotel)

    async def _payment(self) -> None:
        await workflow.wait_condition(lambda: self._is_paid)


@workflow.defn(name="Booking")
class BookingV1(_Booking):
    """The hotel first."""

    @workflow.run
    async def run(self, trip: Trip) -> None:
        """Books both, or none."""
        async with Saga("booking", activity_options=presets.standard()) as saga:
            await self._hotel(saga, trip)
            await self._payment()
            await self._flight(saga, trip)


@workflow.defn(name="Booking")
class BookingV2(_Booking):
    """The flight first, but for the runs that have begun with the hotel."""

    @workflow.run
    async def run(self, trip: Trip) -> None:
        """Books both, or none."""
        async with Saga("booking", activity_options=presets.standard()) as saga:
            if workflow.patched("flight-first"):
                await self._flight(saga, trip)
                await self._payment()
                await self._hotel(saga, trip)
            else:
                await self._hotel(saga, trip)
                await self._payment()
                await self._flight(saga, trip)


@workflow.defn(name="Booking")
class BookingV3(_Booking):
    """Once no run of version 1 is open, and none has to be replayed or reset."""

    @workflow.run
    async def run(self, trip: Trip) -> None:
        """Books both, or none."""
        workflow.deprecate_patch("flight-first")
        async with Saga("booking", activity_options=presets.standard()) as saga:
            await self._flight(saga, trip)
            await self._payment()
            await self._hotel(saga, trip)


@workflow.defn(name="Booking")
class BookingV4(_Booking):
    """Once no run of version 2 is open either. Deployed earlier, it cannot replay those of 1 and 2."""

    @workflow.run
    async def run(self, trip: Trip) -> None:
        """Books both, or none."""
        async with Saga("booking", activity_options=presets.standard()) as saga:
            await self._flight(saga, trip)
            await self._payment()
            await self._hotel(saga, trip)


VERSIONS: dict[int, type[_Booking]] = {1: BookingV1, 2: BookingV2, 3: BookingV3, 4: BookingV4}
