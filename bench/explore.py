"""How long `explore` takes on sagas of real size, what it leaves out, and when it finds a bug at either end."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from temporalio import activity, workflow

from temporal_saga import Rejected, Saga, current_step, presets
from temporal_saga.testing import Exploration, Simulation, explore


class Ledger:
    """What stands, by key; an undo under the same key counts once, unless it is that of the step named `forgetful`."""

    def __init__(self, forgetful: str = "") -> None:
        self.standing: dict[str, int] = {}
        self.undone: set[str] = set()
        self.undos = 0
        self._forgetful = forgetful
        self.activities: list[Callable[..., Any]] = [self.do, self.undo]

    @activity.defn
    async def do(self, number: int) -> int:
        key = current_step().key
        if key in self.undone:
            raise Rejected("this step has been undone, it came too late")
        self.standing[key] = number
        return number

    @activity.defn
    async def undo(self, number: int) -> None:
        step = current_step()
        key = step.forward_key or ""
        if key in self.undone and step.name == self._forgetful:
            self.undos += 1
        self.undone.add(key)
        self.standing.pop(key, None)


@workflow.defn
class InARow:
    @workflow.run
    async def run(self, steps: int) -> int:
        async with Saga(activity_options=presets.standard()) as saga:
            for number in range(steps):
                await saga.execute_activity_method(
                    Ledger.do, number, compensation=Ledger.undo, step=f"step-{number + 1}"
                )
        return steps


@workflow.defn
class Gathered:
    @workflow.run
    async def run(self, steps: int) -> int:
        async with Saga(activity_options=presets.standard()) as saga:
            await asyncio.gather(
                *[
                    saga.execute_activity_method(Ledger.do, n, compensation=Ledger.undo, step=f"step-{n + 1}")
                    for n in range(steps)
                ]
            )
        return steps


def conserved(ledger: Ledger, simulation: Simulation[int]) -> bool:
    """Whether nothing stands after a bad end, and nothing was undone twice."""
    return (simulation.status == "completed" or not ledger.standing) and not ledger.undos


SEARCHES: tuple[tuple[str, Any, int], ...] = (
    ("5 steps in a row", InARow, 5),
    ("gather of 5", Gathered, 5),
    ("10 steps in a row", InARow, 10),
    ("20 steps in a row", InARow, 20),
)


def searched(workflow_class: Any, steps: int, **options: Any) -> Exploration:
    """Explore two faults."""
    return explore(workflow_class.run, steps, setup=Ledger, check=conserved, faults=2, **options)


def plans_to(step: int, steps: int) -> int:
    """Return how many plans run until the undo of one step is found not to be safe to repeat."""

    def setup() -> Ledger:
        return Ledger(f"step-{step}")

    exploration = explore(
        InARow.run, steps, setup=setup, check=conserved, faults=2, first=True, fail=False, processes=1
    )
    assert exploration.violations
    return exploration.tried


def megabytes() -> float:
    """Return the most memory that this process has used."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _processor_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def report(seconds: float) -> None:
    """Print the lines; searches of more than five steps only with `--seconds` of 5 or more."""
    small = seconds < 5
    print("explore with two faults at once" + ("; --seconds=5 adds the sagas of 10 and 20 steps" if small else ""))
    print(
        f"{'':>20} {'plans':>7} {'left out':>9} {'untried':>8} {'processes':>10} {'s':>7} {'s of a core':>12} {'MB':>6}"
    )
    for name, workflow_class, steps in SEARCHES[: 2 if small else None]:
        gc.collect()
        before, began = _processor_seconds(), time.perf_counter()
        found = searched(workflow_class, steps)
        spent, used = time.perf_counter() - began, _processor_seconds() - before
        print(
            f"{name:>20} {found.tried:>7} {sum(found.pruned.values()):>9} {found.untried:>8} {found.processes:>10} "
            f"{spent:>7.1f} {used:>12.1f} {megabytes():>6.0f}",
            flush=True,
        )
    steps = 5 if small else 10
    print(f"plans until first=True finds an undo that is not safe to repeat, of {steps} steps")
    for step in (1, (steps + 1) // 2, steps):
        print(f"{f'of step {step}':>20} {plans_to(step, steps):>7}", flush=True)
