"""The agents on a real server, without a cache: each workflow task replays the agent from its beginning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
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


@pytest.mark.parametrize("end", ["rejected", "cancelled"])
async def test_what_was_booked_is_canceled_newest_first(office: Office, end: str) -> None:
    traveler = f"bob-{uuid4()}"
    handle = await start(office.client, Trip(traveler, "Rome"), office.framework)
    await planned(office, traveler, handle)
    if end == "rejected":
        await review(handle, False)
        assert (await handle.result()).state is State.REJECTED
    else:
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


async def test_a_model_that_fails_for_good_ends_the_trip(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails once the flight and the hotel are booked."""

    def think(results: dict[str, str]) -> Any:
        if results:
            raise ApplicationError("the model is gone", non_retryable=True)
        return [("call-1", "flight", "Rome"), ("call-2", "hotel", "Astoria")]

    monkeypatch.setattr(f"{_module(office)[1]}.think", think)
    traveler = f"dan-{uuid4()}"
    handle = await start(office.client, Trip(traveler, "Rome"), office.framework)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    booked, canceled = log(office, traveler)[:2], log(office, traveler)[2:]
    assert set(booked) == {"booked flight Rome", "booked hotel Astoria"}
    assert canceled == [line.replace("booked", "canceled") for line in reversed(booked)]


async def test_a_bug_in_a_tool_waits_for_fixed_code(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is booked and nothing is undone meanwhile. With the fixed code the trip goes on."""

    def bug(*args: object) -> None:
        raise TypeError("a bug")

    module, traveler = _module(office)[0], f"eve-{uuid4()}"
    with monkeypatch.context() as broken:
        broken.setattr(f"{module}.Booking", bug)
        handle = await start(office.client, Trip(traveler, "Rome"), office.framework)

        async def task_failed() -> bool:
            events = (await handle.fetch_history()).events
            return any(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED for event in events)

        await eventually(task_failed)
        assert log(office, traveler) == []
    await planned(office, traveler, handle)
    assert log(office, traveler) == ["booked flight Rome", "booked hotel Astoria"]
    await handle.terminate()


def _module(office: Office) -> tuple[str, str]:
    """Where the workflow and the fake model of the framework are."""
    name = office.framework.replace("-", "_")
    return f"examples.agent_tools.with_{name}", f"examples.agent_tools.fake_{name}"


async def test_no_answer_for_a_day_is_a_no(time_skipping_env: WorkflowEnvironment) -> None:
    agency, client = FragileAgency(), with_plugins(time_skipping_env.client, "pydantic-ai")
    runner = passing([workflow_of("pydantic-ai")])
    async with working(client, agency, "pydantic-ai", workflow_runner=runner):
        handle = await start(client, Trip("fay", "Rome"), "pydantic-ai")
        assert (await handle.result()).state is State.REJECTED
        described = await handle.describe()
        assert described.close_time is not None
        assert timedelta(days=1) <= described.close_time - described.start_time < timedelta(days=1, hours=1)
    assert agency.log()[-2:] == ["canceled hotel Astoria for fay", "canceled flight Rome for fay"]
    agency.close()
