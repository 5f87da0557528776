"""The agents on a real server, without a cache: each workflow task replays the agent from its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from examples.agent_tools.__main__ import FRAMEWORKS, review, start, with_plugins, workflow_of, working
from examples.agent_tools.activities import Agency
from examples.agent_tools.models import Booking, State, Status, Trip
from tests.server.support import causes, eventually, passing


class FragileAgency(Agency):
    """One whose first hotel is full, and whose hotels fail for good for a traveler of that name."""

    def __init__(self) -> None:
        super().__init__()
        with self._db:
            self._db.execute("UPDATE offers SET seats = 0 WHERE name = 'Plaza'")

    @activity.defn
    def book(self, booking: Booking) -> None:
        if booking.kind == "hotel" and booking.traveler.startswith("unlucky"):
            raise ApplicationError("no reply", non_retryable=True)
        super().book(booking)


class Office(NamedTuple):
    """A worker of one of the frameworks."""

    framework: str
    client: Client
    agency: Agency


@pytest.fixture(scope="module", params=FRAMEWORKS)
async def office(env: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Office]:
    agency, framework = FragileAgency(), str(request.param)
    client = with_plugins(env.client, framework)
    runner = passing([workflow_of(framework)])
    async with working(client, agency, framework, max_cached_workflows=0, workflow_runner=runner):
        yield Office(framework, client, agency)
    agency.close()


async def planned(office: Office, traveler: str, handle: WorkflowHandle[Any, Status]) -> None:
    """Waits until a trip waits for its review. A query replays the agent too, and may be late: few are sent."""
    await eventually(lambda: len(log(office, traveler)) == 2)

    async def waits() -> bool:
        with suppress(RPCError):
            return (await handle.query("status", result_type=Status)).state is State.WAITS_FOR_REVIEW
        return False

    await eventually(waits)


def log(office: Office, traveler: str) -> list[str]:
    return [line.removesuffix(f" for {traveler}") for line in office.agency.log() if line.endswith(traveler)]


async def test_a_trip_is_booked_by_an_agent_and_approved(office: Office) -> None:
    traveler = f"ann-{uuid4()}"
    handle = await start(office.client, Trip(traveler, "Rome"), office.framework)
    await planned(office, traveler, handle)
    await review(handle, True)
    with pytest.raises((WorkflowUpdateFailedError, RPCError)):  # refused, or the workflow has ended
        await review(handle, False)
    assert (await handle.result()).state is State.BOOKED
    assert log(office, traveler) == ["booked flight Rome", "booked hotel Astoria", "tickets"]


async def test_a_cancel_cancels_what_was_booked_newest_first(office: Office) -> None:
    """What happens when the person rejects is in the program's story, and explored."""
    traveler = f"bob-{uuid4()}"
    handle = await start(office.client, Trip(traveler, "Rome"), office.framework)
    await planned(office, traveler, handle)
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert causes(error.value.cause) == ["CancelledError"]
    booked, canceled = log(office, traveler)[:2], log(office, traveler)[2:]
    assert booked == ["booked flight Rome", "booked hotel Astoria"]
    assert canceled == ["canceled hotel Astoria", "canceled flight Rome"]


async def test_a_tool_that_fails_for_good_ends_the_trip(office: Office) -> None:
    """The flight, which was booked beside it, is canceled. The model is not told of the fault."""
    traveler = f"unlucky-{uuid4()}"
    handle = await start(office.client, Trip(traveler, "Rome"), office.framework)
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert "ApplicationError" in causes(error.value.cause)
    assert log(office, traveler) in (["booked flight Rome", "canceled flight Rome"], [])
