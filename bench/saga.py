"""Measures the worker's time, in process: the SDK's own workflow instance, fed by hand.

Ratios within one run, the hand-written workflow and the saga taking turns; of each the fastest run
counts, since what other programs do on a shared machine only adds to it. Time per activation is
that of a whole run, divided by its activations: one for the start, one for each step that ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from bench.workflows import ByHand, Unwinding, WithSaga
from tests.driver import Run, _activate


def measured(workflow: type, *args: object, runner: WorkflowRunner | None = None) -> tuple[Callable[[], float], int]:
    """Return a function that runs the workflow and tells the seconds spent in it, and its number of activations."""
    recorded = Run(workflow, *args, runner=runner or UnsandboxedWorkflowRunner())
    recorded.autopilot({"work": 1})
    assert recorded.closed is not None, recorded.task_failure
    assert recorded.closed[0] == "complete", recorded.closed
    requests = [activation.request for activation in recorded.activations]

    def once() -> float:
        began = time.perf_counter()
        instance = recorded._new_instance(workflow)
        spent = time.perf_counter() - began
        for request in requests:
            began = time.perf_counter()
            completion = _activate(instance, request)
            spent += time.perf_counter() - began
            assert not completion.HasField("failed"), completion.failed.failure.message
        return spent

    return once, len(requests)


def paired(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Return the least seconds of two functions that take turns."""
    for function in (one, other):
        function()
    pairs = [(one(), other()) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def report(budget: float) -> None:
    """Print the ratios; `budget` is about how many seconds a line takes."""
    print("a saga that succeeds, against the same workflow by hand")
    print(f"{'steps':>14} {'by hand':>10} {'saga':>10} {'ratio':>7}   more, microseconds")
    for parallel in (False, True):
        for steps in (1, 5, 10, 50):
            hand, activations = measured(ByHand, steps, parallel)
            saga, _ = measured(WithSaga, steps, parallel)
            a, b = paired(saga, hand, max(20, int(budget / 2 / (hand() + saga()))))
            print(
                f"{steps:>5} {'parallel' if parallel else 'in a row':>8}"
                f" {b / activations * 1e6:>7.0f} us {a / activations * 1e6:>7.0f} us {a / b:>7.2f}"
                f"   {(a - b) * 1e6:.0f} a saga, {(a - b) / steps * 1e6:.1f} a step",
                flush=True,
            )

    print("\nthe sandbox: a run of 5 steps, against the same by hand")
    hand, _ = measured(ByHand, 5, False, runner=SandboxedWorkflowRunner())
    saga, _ = measured(WithSaga, 5, False, runner=SandboxedWorkflowRunner())
    a, b = paired(saga, hand, max(10, int(budget / 2 / (hand() + saga()))))
    print(f"  by hand {b * 1e3:.2f} ms, saga {a * 1e3:.2f} ms, ratio {a / b:.2f}")

    print("\nunwinding")
    for count in (10, 100, 1000, 2000):
        unwind, _ = measured(Unwinding, count)
        spent = min(unwind() for _ in range(max(3, int(budget / 2 / unwind()))))
        print(f"  {count:>5} compensations {spent * 1e3:>8.1f} ms, {spent / count * 1e6:>5.0f} us each", flush=True)
