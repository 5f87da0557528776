"""`explore` on the agents: what a tool call has booked is kept with the trip, or canceled.

To import the frameworks in other processes takes longer than all else: hence `elsewhere=False`. The tests on the real
server, which keep no cache, replay in the sandbox all the time.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pydantic import TypeAdapter
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.service import RPCError

from examples.agent_tools.__main__ import plugins, workflow_of
from examples.agent_tools.activities import Agency
from examples.agent_tools.models import State, Status, Trip
from examples.agent_tools.with_openai_agents import OpenAITrip, book
from examples.agent_tools.with_pydantic_ai import PydanticTrip
from temporal_saga.testing import Exploration, Simulation, bug_after, explore, simulate
from temporal_saga.testing.explorer._alone import can_fork, cores

pytestmark = [pytest.mark.timeout(900)]

TRIP = Trip("ann", "a weekend in Rome")


class FullPlaza(Agency):
    """An agency whose first hotel is full, and a person who approves."""

    def __init__(self) -> None:
        super().__init__()
        with self._db:
            self._db.execute("UPDATE offers SET seats = 0 WHERE name = 'Plaza'")

    async def client(self, handle: Any) -> None:
        for _ in range(2):
            await asyncio.sleep(3600)
            with suppress(WorkflowUpdateFailedError, RPCError):  # a fault's doing
                await handle.execute_update("review", True)


def a_trip_is_booked_or_nothing_of_it(agency: Agency, simulation: Simulation[Any]) -> None:
    taken: Any = agency.rows("SELECT kind, 9 - seats FROM offers WHERE name IN ('Rome', 'Astoria')")
    expected = int(any(call.label == "send_tickets" for call in simulation.calls))
    assert dict(taken) == {"flight": expected, "hotel": expected}, agency.log()


def within(plugin: Any, call: Callable[[], Any]) -> Any:
    """What a function returns, run inside of what a plugin runs around a worker: a simulation's replay does not do so.

    In a thread, as a simulation has an event loop of its own.
    """
    found: list[Any] = []

    async def run(_worker: Any) -> None:
        found.append(await asyncio.to_thread(call))

    loop = asyncio.new_event_loop()  # not `asyncio.run`, which would take the loop of the async tests away
    try:
        loop.run_until_complete(plugin.run_worker(None, run))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
    return found[0]


@pytest.fixture
def kept_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds each of Pydantic's type adapters once.

    Each simulation makes a data converter of its own, with an empty cache. To fill it took five sixths of a run.
    """
    monkeypatch.setattr("temporalio.contrib.pydantic.TypeAdapter", functools.cache(TypeAdapter))


to_two_faults = pytest.mark.parametrize("faults", [1, pytest.param(2, marks=pytest.mark.deep)])


def explored(run: Any, own: list[Any], faults: int) -> Exploration:
    return explore(
        run,
        TRIP,
        setup=FullPlaza,
        check=a_trip_is_booked_or_nothing_of_it,
        faults=faults,
        plugins=own,
        elsewhere=False,
        processes=min(faults, cores()) if can_fork() else 1,
    )


def assert_all_was_tried(tried: Exploration, faults: int) -> None:
    assert (tried.untried, tried.without_compensation) == (0, ["send_tickets"]), str(tried)
    assert tried.tried > {1: 80, 2: 800}[faults]


@pytest.mark.slow
@to_two_faults
def test_what_a_tool_of_pydantic_ai_books_is_kept_or_canceled(faults: int) -> None:
    assert_all_was_tried(explored(PydanticTrip.run, plugins("pydantic-ai"), faults), faults)


@pytest.mark.slow
@to_two_faults
@pytest.mark.usefixtures("kept_adapters")
@pytest.mark.filterwarnings("ignore")  # of the SDK's tracing
def test_what_a_tool_of_openai_agents_books_is_kept_or_canceled(faults: int) -> None:
    own = plugins("openai-agents")
    assert_all_was_tried(within(own[0], lambda: explored(OpenAITrip.run, own, faults)), faults)


@pytest.mark.parametrize("is_default", [False, True])
def test_the_default_failure_handler_of_a_tool_tells_the_model_of_a_bug(
    monkeypatch: pytest.MonkeyPatch, is_default: bool
) -> None:
    """A trip is booked, whose plan is an error. Without the handler the task fails until the bug is fixed."""
    monkeypatch.setattr(book, "_use_default_failure_error_function", is_default)
    agency = FullPlaza()
    simulation = simulate(
        OpenAITrip.run,
        TRIP,
        activities=agency.activities,
        client=agency.client,
        plugins=plugins("openai-agents"),
        faults=[bug_after("book")],
    )
    plan = simulation.result().plan
    assert ("simulated bug" in plan) == is_default
    assert ("booked flight Rome" in plan) != is_default
    agency.close()


def test_nobody_reviews_a_trip_within_a_day() -> None:
    agency = FullPlaza()
    simulation = simulate(PydanticTrip.run, TRIP, activities=agency.activities, plugins=plugins("pydantic-ai"))
    plan = "booked flight Rome; hotel Plaza is full; booked hotel Astoria"
    assert simulation.result() == Status(State.REJECTED, plan)
    assert agency.log()[-2:] == ["canceled hotel Astoria for ann", "canceled flight Rome for ann"]
    agency.close()


@pytest.mark.parametrize(
    ("framework", "fake", "error"),
    [("pydantic-ai", "fake_pydantic_ai", "UsageLimitExceeded"), ("openai-agents", "fake_openai_agents", "AgentFailed")],
)
def test_an_agent_that_never_ends_is_undone(
    monkeypatch: pytest.MonkeyPatch, framework: str, fake: str, error: str
) -> None:
    """The framework ends it after so many requests. All that it booked is canceled."""

    def think(results: dict[str, str]) -> Any:
        return [(f"call-{len(results)}", "hotel", "Astoria")]

    monkeypatch.setattr(f"examples.agent_tools.{fake}.think", think)
    agency, run = FullPlaza(), workflow_of(framework).run
    simulation = simulate(run, TRIP, activities=agency.activities, plugins=plugins(framework))
    assert (simulation.status, agency.rows("SELECT seats FROM offers WHERE name = 'Astoria'")) == ("failed", [(9,)])
    with pytest.raises(WorkflowFailureError) as failed:
        simulation.result()
    assert error in str(getattr(failed.value.cause, "type", None)), failed.value.cause
    agency.close()
