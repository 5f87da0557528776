"""The trip with the OpenAI Agents SDK and Temporal's plugin for it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from agents import Agent, Runner, function_tool
from agents.exceptions import MaxTurnsExceeded, ModelBehaviorError
from agents.tool_context import ToolContext
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Agency
    from .models import Booking, State, Status, Trip


@dataclass(frozen=True)
class Booker:
    """What the tools get: who travels, and the saga that their bookings are steps of."""

    traveler: str
    saga: Saga


# By default every error of a tool becomes a text for the model, a TypeError too: the model would be asked to try again.
# With None a bug fails the workflow task, and a fault the run.
@function_tool(failure_error_function=None)
async def book(ctx: ToolContext[Booker], kind: str, name: str) -> str:
    """Books a flight or a hotel.

    Args:
        ctx: The run.
        kind: "flight" or "hotel".
        name: The flight's destination, or the hotel's name.
    """
    booker = ctx.context
    try:
        await booker.saga.execute_activity_method(
            Agency.book,
            Booking(booker.traveler, kind, name),
            compensation=Agency.cancel,
            # A model calls one tool several times at once: its calls need a key each.
            key=ctx.tool_call_id,
        )
    except ActivityError as error:
        answer = error.cause
        if not isinstance(answer, ApplicationError) or answer.type != "Declined":
            raise
        return answer.message  # a no is for the model: it may try something else
    return f"booked {kind} {name}"


agent = Agent[Booker](
    name="travel_agent", instructions="Book a flight and a hotel. If one is full, book another one.", tools=[book]
)


@workflow.defn
class OpenAITrip:
    """Lets the agent book, and a person review it. What was booked is canceled if the trip does not come about."""

    @workflow.init
    def __init__(self, trip: Trip) -> None:
        self._status = Status(State.PLANNING)
        self._approved: bool | None = None

    @workflow.run
    async def run(self, trip: Trip) -> Status:
        """Returns how it ended. A fault that outlasts its retries fails, once all is canceled."""
        async with Saga("trip", activity_options=presets.standard()) as saga:
            try:
                result = await Runner.run(agent, trip.wish, context=Booker(trip.traveler, saga))
            except (MaxTurnsExceeded, ModelBehaviorError) as error:
                # The model's doing, which no deployment fixes. As they are, they would fail the workflow task forever.
                raise ApplicationError(str(error), type="AgentFailed") from error
            plan = str(result.final_output)
            self._status = Status(State.WAITS_FOR_REVIEW, plan)
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: self._approved is not None, timeout=timedelta(days=1))
            if not self._approved:  # no answer is a no
                self._status = Status(State.REJECTED, plan)
                await saga.compensate()
                return self._status
            saga.pivot()
            self._status = Status(State.BOOKED, plan)
            await saga.execute_activity_method(Agency.send_tickets, trip, **presets.forward_only())
        return self._status

    @workflow.update
    async def review(self, approved: bool) -> None:
        """What a person says of the plan."""
        self._approved = approved

    @review.validator
    def _validate_review(self, approved: bool) -> None:
        if self._status.state is not State.WAITS_FOR_REVIEW or self._approved is not None:
            raise ValueError("nothing waits for a review")

    @workflow.query
    def status(self) -> Status:
        """Where it stands."""
        return self._status
