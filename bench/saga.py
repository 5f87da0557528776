"""What a saga costs the worker: in executed bytecodes, which are exact, and in time, which is not.

Everything runs in process: the SDK's own workflow instance is made anew and fed recorded activations.
"""

from __future__ import annotations

import gc
import platform
import tracemalloc
from dataclasses import dataclass
from typing import Literal

import temporalio.service

from bench.recording import Recording, least_seconds
from bench.workflows import Bare, Careful, OpenByHand, OpenSaga, Undoing, WithSaga

STEPS = (1, 5, 10, 50, 200)
UNDOS = (10, 100, 500, 2000)
Order = Literal["reverse", "concurrent"]
ORDERS: tuple[Order, ...] = ("reverse", "concurrent")


@dataclass(frozen=True)
class Bytecodes:
    """Executed by one workflow, written in three ways."""

    bare: int
    careful: int
    saga: int


def executed(steps: int, parallel: bool) -> Bytecodes:
    """Count the bytecodes of workflows of so many steps that succeed."""
    return Bytecodes(*[Recording(workflow, steps, parallel).bytecodes() for workflow in (Bare, Careful, WithSaga)])


def compare(budget: float) -> None:
    print("a saga that succeeds, over the same workflow by hand")
    print("bare: no compensations; careful: with the guarantees of a saga")
    print(f"{'':>14} {'executed bytecodes':^52}   {'time':^36}")
    ratios = f"{'careful':>8} {'saga':>8} {'saga':>8}"
    print(f"{'steps':>14} {'bare':>9} {'saga a step':>12} {ratios}   {'bare':>10} {ratios}")
    of = f"{'/bare':>8} {'/bare':>8} {'/careful':>8}"
    print(f"{'':>14} {'':>9} {'':>12} {of}   {'':>10} {of}")
    for parallel in (False, True):
        for steps in STEPS:
            count = executed(steps, parallel)
            recordings = [Recording(workflow, steps, parallel) for workflow in (Bare, Careful, WithSaga)]
            bare, careful, saga = least_seconds(*recordings, budget=budget)
            print(
                f"{steps:>5} {'parallel' if parallel else 'in a row':>8} {count.bare:>9,}"
                f" {(count.saga - count.bare) / steps:>+12.0f}"
                f" {count.careful / count.bare:>8.3f} {count.saga / count.bare:>8.3f}"
                f" {count.saga / count.careful:>8.3f}   {bare * 1e6:>7,.0f} us {careful / bare:>8.2f}"
                f" {saga / bare:>8.2f} {saga / careful:>8.2f}",
                flush=True,
            )


def per_undo(count: int, armed: bool, order: Order) -> float:
    """Count the bytecodes of one undo of so many."""

    def bytecodes(undoes: bool) -> int:
        recordings = [Recording(Undoing, size, armed, order, undoes, at_once=True) for size in (10, count)]
        return recordings[1].bytecodes(warm=recordings[0])

    return (bytecodes(True) - bytecodes(False)) / count


def compare_undos() -> None:
    print("executed bytecodes of an undo, by how many there are: the SDK's own included")
    print(f"{'':>24} {''.join(f'{count:>9,}' for count in UNDOS)}")
    for order in ORDERS:
        for armed in (False, True):
            print(f"{order:>12} {'armed' if armed else 'pushed':>11} ", end="", flush=True)
            for count in UNDOS:
                print(f"{per_undo(count, armed, order):>9,.0f}", end="", flush=True)
            print()


def held(workflow: type, steps: int) -> float:
    """Return how many bytes a run holds that waits, its steps done."""
    recording = Recording(workflow, steps)
    waiting, sizes = [recording.again()], []
    tracemalloc.start()
    # The first ones also bring what all share.
    for instances in (5, 30):
        waiting += [recording.again() for _ in range(instances)]
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    for instance in waiting:
        recording.evict(instance)
    return (sizes[1] - sizes[0]) / 30


def compare_memory() -> None:
    print("bytes that a run holds while it waits, the SDK's own included; by hand it holds a list of undos")
    print(f"{'armed steps':>14} {'by hand':>10} {'saga':>10} {'more':>10} {'more a step':>12}")
    for steps in (5, 50):
        hand, saga = held(OpenByHand, steps), held(OpenSaga, steps)
        more = saga - hand
        print(f"{steps:>14} {hand:>10,.0f} {saga:>10,.0f} {more:>10,.0f} {more / steps:>12,.0f}", flush=True)


def report(budget: float) -> None:
    """Print the tables; `budget` is about how many seconds a line of times takes."""
    print(f"Python {platform.python_version()}, temporalio {temporalio.service.__version__}")
    compare(budget)
    print()
    compare_undos()
    print()
    compare_memory()
