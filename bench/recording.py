"""Feeds recorded activations to the SDK's own workflow instance, in process."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

from temporalio.worker import Plugin, UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowRunner

from tests.driver import Run, _evict, completed

# Fixed: keys are made of it, and a run is to take the same path each time.
RUN_ID = "5b3b7a42-6a1e-4b7e-9d1c-0f6f0a1d2c3b"


class Recording:
    """A run of a workflow, which can be had again on new instances.

    Args:
        workflow: The workflow class.
        args: Its arguments.
        runner: How to run its code; unsandboxed unless given.
        plugins: The worker's.
        at_once: Whether activities that are pending together end in one activation.
    """

    def __init__(
        self,
        workflow: type[Any],
        *args: object,
        runner: WorkflowRunner | None = None,
        plugins: Sequence[Plugin] = (),
        at_once: bool = False,
    ) -> None:
        runner = runner or UnsandboxedWorkflowRunner()
        self._run = run = Run(workflow, *args, run_id=RUN_ID, runner=runner, plugins=plugins)
        results = {"work": 1}
        run.start()
        while run.activities:
            pending = run.activities if at_once else run.activities[:1]
            run.activate(*[completed(activity.id, results.get(activity.name)) for activity in pending])
        assert run.task_failure is None, run.task_failure
        assert run.closed is None or run.closed[0] == "complete", run.closed
        self._requests = [activation.request for activation in run.activations]

    @property
    def activations(self) -> int:
        """How many there are."""
        return len(self._requests)

    def again(self) -> WorkflowInstance:
        """Run all of it on a new instance, and return that."""
        instance = self._run._new_instance(self._run.workflow)
        for request in self._requests:
            completion = instance.activate(request)
            assert not completion.HasField("failed"), completion.failed.failure.message
        return instance

    def evict(self, instance: WorkflowInstance) -> None:
        """End an instance that waits, as a worker does."""
        _evict(instance, self._run.run_id)

    def seconds(self) -> float:
        """Run all of it on a new instance, and return how long that took."""
        began = time.perf_counter()
        self.again()
        return time.perf_counter() - began

    def bytecodes(self, *, warm: Recording | None = None) -> int:
        """Run all of it on a new instance, and return how many bytecodes were executed.

        The number is exact: the same code gives the same number each time, on one version of Python and of the SDK.

        Args:
            warm: What to trace first, if a smaller run takes the same paths.
        """
        return executed(self.again, warm=(warm or self).again)


def executed(function: Callable[[], object], *, warm: Callable[[], object] | None = None) -> int:
    """Call a function, and return how many bytecodes were executed.

    Args:
        function: The function.
        warm: What to trace first, if another function takes the same paths.
    """
    # CPython 3.12 instruments a function when it is first traced, and counts it from its next call on.
    _traced(warm or function)
    return _traced(function)


def _traced(function: Callable[[], object]) -> int:
    count = 0

    def on_event(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        return on_event

    def on_call(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return on_event

    gc.collect()
    gc.disable()  # what it frees runs code
    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        function()
    finally:
        sys.settrace(before)
        gc.enable()
    return count


class Repeated(Protocol):
    """What is measured."""

    def again(self) -> object:
        """Do it."""
        ...

    def seconds(self) -> float:
        """Do it, and return how long that took."""
        ...


def least_seconds(*recordings: Repeated, budget: float) -> list[float]:
    """Return the least seconds of a run of each; they take turns for about `budget` seconds.

    The least: what other programs do on a shared machine only adds.
    """
    for recording in recordings:
        recording.again()
    least = [float("inf")] * len(recordings)
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < 10 or time.perf_counter() < end:
        rounds += 1
        for number, recording in enumerate(recordings):
            least[number] = min(least[number], recording.seconds())
    return least
