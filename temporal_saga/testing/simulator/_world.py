"""What all workflows of one simulation share: the clock, the worker, the faults, and what has been seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextvars import copy_context
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NoReturn

from google.protobuf.timestamp_pb2 import Timestamp

from ._around import AroundWorker
from ._clock import Handle, VirtualLoop
from ._errors import SimulationError
from ._journal import Journal
from ._pending import PendingFaults
from ._sagas import run_id_and_seed
from ._sdk import WorkerParts

_SECOND = timedelta(seconds=1)


class World:
    """The world in which workflows and activities run. It knows none of them."""

    def __init__(
        self,
        parts: WorkerParts,
        loop: VirtualLoop,
        *,
        start_time: datetime,
        faults: PendingFaults,
        first_run: int,
        unserved: Collection[str],
        max_activations: int,
    ) -> None:
        self.parts = parts
        self.loop = loop
        self.faults = faults
        self.unserved = unserved
        self.journal: Journal = Journal(loop)
        self.late: list[Callable[[], None]] = []
        """These run when nothing else is left to happen."""
        self.held: list[Callable[[], None]] = []
        """These run when nothing else is left to happen, before `late`: they let go what was held."""
        self.completed_by_client: list[Any] = []
        """Attempts that a client is to complete."""
        self.error: BaseException | None = None
        """What stopped the simulation."""
        self.is_stopping: bool = False
        self._reminders: list[Handle] = []
        self._start_time = start_time
        self._since_1970 = start_time - datetime.fromtimestamp(0, timezone.utc)
        self._stamped: timedelta | None = None  # the time of `_stamp`
        self._stamp = Timestamp()
        self._max_activations = max_activations
        self._activations = 0
        self._first_run = first_run
        self._run_numbers: dict[str, int] = {}
        self._functions: dict[Coroutine[Any, Any, Any], asyncio.Task[Any]] = {}
        self._context = copy_context()
        self._around = AroundWorker(parts, loop)

    # --- time ---

    def time(self) -> float:
        """Return the seconds since the start."""
        return self.loop.now

    def date(self, time: float) -> datetime:
        """Return the date at so many seconds since the start."""
        return self._start_time + timedelta(seconds=time)

    def timestamp(self) -> Timestamp:
        """Return the time as it travels."""
        elapsed = self.loop.elapsed
        if elapsed is not self._stamped:
            seconds, rest = divmod(self._since_1970 + elapsed, _SECOND)
            self._stamped, self._stamp = elapsed, Timestamp(seconds=seconds, nanos=rest.microseconds * 1_000)
        return self._stamp

    # --- reminders of what is parked ---

    def note_reminder(self, timer: Handle) -> None:
        """Note that all this timer brings is a reminder."""
        self._reminders = [each for each in self._reminders if not each.cancelled() and each.when() >= self.time()]
        self._reminders.append(timer)

    @property
    def has_more_than_reminders(self) -> bool:
        """Whether anything but reminders is still to happen."""
        return self.loop.has_timers_besides(self._reminders)

    # --- the workflows that there are ---

    def definition(self, workflow_type: str) -> Any:
        """Return the workflow of that name."""
        found = self.parts.workflow(workflow_type)
        if found is None:
            self.fail(
                SimulationError(
                    f"workflow {workflow_type!r} is not registered; registered: "
                    f"{', '.join(sorted(map(str, self.parts.workflows)))}. Give it with workflows=[...] "
                    "(a real worker would fail the workflow task, and the server would retry forever)"
                )
            )
        return found

    def new_run(self, workflow_id: str) -> tuple[str, int]:
        """Return the id and the seed of the next run of a workflow: the same in each simulation."""
        number = self._run_numbers.get(workflow_id, self._first_run)
        self._run_numbers[workflow_id] = number + 1
        return run_id_and_seed(workflow_id, number)

    def count_activation(self, *, of_main: bool) -> None:
        """Count an activation, the main workflow's or another's; too many of them are an endless loop."""
        if of_main:
            self.journal.activation += 1
        self._activations += 1
        if self._activations > self._max_activations:
            self.fail(
                SimulationError(f"no end after {self._max_activations} activations: does the workflow loop forever?")
            )

    # --- functions: activities, and the client ---

    def start_function(self, function: Coroutine[Any, Any, Any], *, name: str | None = None) -> asyncio.Task[Any]:
        """Run a function beside all else; the function deals with its own errors."""
        # As on a worker, each function has its own context: no function sees what another has set there.
        task = self._functions[function] = self.loop.create_task_in(
            self._context.copy(), self._to_its_end(function), name=name
        )
        return task

    async def _to_its_end(self, function: Coroutine[Any, Any, Any]) -> Any:
        try:
            result = await function
            del self._functions[function]  # not if it raises: `stop` looks at the error
            if self.is_stopping and not self._functions:
                self.loop.stop()
            return result
        finally:
            if self.loop.refused is not None and not self.is_stopping:
                self.loop.soon(self._refuse)

    def _stopped(self, function: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
        self._functions.pop(function, None)
        function.close()  # else Python warns of one that has not begun
        if not task.cancelled():
            task.exception()  # else asyncio logs that nobody has asked for it
        if not self._functions:
            self.loop.stop()

    def _refuse(self) -> None:
        if self.loop.refused is not None and not self.is_stopping:
            self.fail(self.loop.refused)

    # --- the worker ---

    def begin_worker(self) -> None:
        """Enter what the plugins run around the worker."""
        self._around.enter(self._keep_context)

    def _keep_context(self) -> None:
        self._context = copy_context()  # as on a worker, activities see what is set there

    def end_worker(self) -> None:
        """Leave what the plugins run around the worker."""
        self._around.leave()

    # --- the end ---

    def fail(self, error: BaseException) -> NoReturn:
        """Stop the simulation with this error."""
        self.error = self.error or error
        self.loop.stop()
        raise error

    def stop(self) -> None:
        """End the functions that still run: they wait for something that never comes."""
        self.is_stopping = True
        for function, task in list(self._functions.items()):
            task.add_done_callback(partial(self._stopped, function))
            task.cancel()
        if self._functions:
            self.loop.run()
