"""What the tests of the rules share: workflows made of a function, and steps by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Saga
from tests.driver import Run

SECOND = timedelta(seconds=1)
OPTIONS: workflow.ActivityConfig = {"start_to_close_timeout": timedelta(seconds=10)}
SHARED: list[BaseException] = []


def shared(error: ApplicationError) -> ApplicationError:
    """Return an error that many runs raise: each forgets where it was raised before, which gets longer each time."""
    SHARED.append(error)
    return error


def proof(kind: str, type: str) -> ApplicationError:
    """Return an error that proves, as an activity under our decorator raises it, that there was no effect."""
    return shared(ApplicationError("no", {"temporal_saga": {"v": 1, "kind": kind, "effect": "none"}}, type=type))


REFUSED = shared(ApplicationError("refused", type="Refused", non_retryable=True))
DECLINED = proof("DECLINED", "Declined")
"""What an activity's `Declined` is to a workflow: it proves that nothing took effect."""


def flow(body: Callable[[], Awaitable[Any]]) -> type[Any]:
    """Return a workflow whose main method is `body`, which may be local to a test."""

    async def run(self: object) -> Any:
        for error in SHARED:
            error.__traceback__ = None
        return await body()

    run.__qualname__ = "Flow.run"  # the SDK refuses local classes, whose name a worker cannot find
    return workflow.defn(name=body.__name__)(type("Flow", (), {"run": workflow.run(run)}))


def new_saga(name: str = "saga", **options: Any) -> Saga:
    """Return a saga whose steps have the timeout that the SDK demands."""
    return Saga(name, **{"activity_options": OPTIONS, **options})


def do(saga: Saga, name: str, **options: Any) -> Coroutine[Any, Any, Any]:
    """Return the step `name`, undone by `undo_<name>`; its argument is its name."""
    if "compensation_from" not in options:
        options.setdefault("compensation", f"undo_{name}")
    return saga.execute_activity(name, name, **options)


def end(run: Run) -> str:
    """Return how a run ended, as one word: a result, `Cancelled`, or what it failed with."""
    if run.task_failure is not None:
        return f"task: {run.task_failure[1]}"
    assert run.closed is not None, "the run is open"
    if run.closed[0] == "cancel":
        return "Cancelled"
    if run.closed[0] == "fail":
        error = run.error
        return getattr(error, "type", None) or type(error).__name__
    return str(run.closed[1])


def undone(run: Run) -> list[str]:
    """Return the compensations that left the worker, in order."""
    return [name for name in run.history if name.startswith("undo_")]


def cancels(run: Run) -> list[str]:
    """Return the names of the activities and children whose cancellation was requested."""
    requested = ("request_cancel_activity", "cancel_child")
    return [command[1].split(":")[0] for command in run.commands if command[0] in requested]
