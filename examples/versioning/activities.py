"""A travel agency that honors keys: what was cancelled by its key is refused, should it come later."""

from collections.abc import Callable

from temporalio import activity

from temporal_saga import Declined, current_step

from .models import Trip


class Agency:
    """The activities, as methods. They do not block."""

    def __init__(self) -> None:
        """Has no bookings yet."""
        self.bookings: dict[str, str] = {}
        self._cancelled: set[str] = set()
        self.activities: list[Callable[..., object]] = [
            self.book_flight,
            self.cancel_flight,
            self.book_hotel,
            self.cancel_hotel,
        ]

    @activity.defn
    async def book_flight(self, trip: Trip) -> None:
        """Books a flight."""
        self._book(f"flight to {trip.city} for {trip.traveler}")

    @activity.defn
    async def cancel_flight(self, trip: Trip) -> None:
        """Undoes `book_flight`."""
        self._cancel()

    @activity.defn
    async def book_hotel(self, trip: Trip) -> None:
        """Books a hotel."""
        self._book(f"hotel in {trip.city} for {trip.traveler}")

    @activity.defn
    async def cancel_hotel(self, trip: Trip) -> None:
        """Undoes `book_hotel`."""
        self._cancel()

    def _book(self, what: str) -> None:
        key = current_step().key
        if key in self._cancelled:
            raise Declined("it was cancelled before it came")
        self.bookings[key] = what

    def _cancel(self) -> None:
        key = current_step().forward_key or ""
        self._cancelled.add(key)
        self.bookings.pop(key, None)
