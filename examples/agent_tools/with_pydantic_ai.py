"""The trip with Pydantic AI."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import cast

from pydantic_ai import Agent, RunContext
from pydantic_ai.durable_exec.temporal import PydanticAIWorkflow, TemporalDurability
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Agency
    from .fake_pydantic_ai import model
    from .models import Booking, State, Status, Trip

agent = Agent(
    model,  # yours: "openai:gpt-5", "anthropic:claude-sonnet-4-5"
    name="travel_agent",
    instructions="Book a flight and a hotel. If one is full, book another one.",
    capabilities=[TemporalDurability()],
)


# `False`: the tool runs in the workflow. By default each tool is an activity of its own, which the saga would not see.
# `sequential`: of calls at once, a bug in one cancels the others, and only then fails the workflow task. By then the
# cancels are in the history, and fixed code cannot replay that.
@agent.tool(sequential=True, metadata={"temporal": False})
async def book(ctx: RunContext[object], kind: str, name: str) -> str:
    """Books a flight or a hotel.

    Args:
        ctx: The run.
        kind: "flight" or "hotel".
        name: The flight's destination, or the hotel's name.
    """
    trip = cast("PydanticTrip", workflow.instance())
    assert ctx.tool_call_id is not None
    try:
        await trip.saga.execute_activity_method(
            Agency.book,
            Booking(trip.traveler, kind, name),
            compensation=Agency.cancel,
            key=ctx.tool_call_id,  # a model calls one tool several times
        )
    except ActivityError as error:
        answer = error.cause
        if not isinstance(answer, ApplicationError) or answer.type != "Declined":
            raise
        return answer.message  # a no is for the model: it may try something else
    return f"booked {kind} {name}"


@workflow.defn
class PydanticTrip(PydanticAIWorkflow):
    """Lets the agent book, and a person review it. What was booked is canceled if the trip does not come about."""

    __pydantic_ai_agents__ = (agent,)

    @workflow.init
    def __init__(self, trip: Trip) -> None:
        self.saga = Saga("trip", activity_options=presets.standard())
        self.traveler = trip.traveler
        self._status = Status(State.PLANNING)
        self._approved: bool | None = None

    @workflow.run
    async def run(self, trip: Trip) -> Status:
        """Returns how it ended. A fault that outlasts its retries fails, once all is canceled."""
        async with self.saga as saga:
            result = await agent.run(trip.wish)
            self._status = Status(State.WAITS_FOR_REVIEW, result.output)
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: self._approved is not None, timeout=timedelta(days=1))
            if not self._approved:  # no answer is a no
                self._status = Status(State.REJECTED, result.output)
                await saga.compensate()
                return self._status
            saga.pivot()
            self._status = Status(State.BOOKED, result.output)
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
