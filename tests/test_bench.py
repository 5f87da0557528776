"""Rule 10: a saga that succeeds costs little, in executed bytecodes; undoing is linear; an open saga holds little.

A run in the simulator costs little more than the SDK's own instance. The numbers are exact for one version of Python
and of the SDK, and the limits were set with these: elsewhere the tests skip. `make bench` prints what they look at, and
more.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import temporalio.service

import bench
from bench.recording import Recording
from bench.workflows import WithSaga

MEASURED_WITH = ("3.13", "1.35")
RUNNING = (f"{sys.version_info[0]}.{sys.version_info[1]}", ".".join(temporalio.service.__version__.split(".")[:2]))

only_where_measured = pytest.mark.skipif(
    RUNNING != MEASURED_WITH,
    reason="the limits hold for the bytecodes of Python {} with temporalio {}; this is {} with {}".format(
        *MEASURED_WITH, *RUNNING
    ),
)

OVER_BARE = {10: 1.20, 50: 1.18}
OVER_CAREFUL = 1.10
# What a saga holds over the list of undos by hand, in bytes, by its armed steps. A prototype held 3,760 and 20,735.
HELD_OVER_BY_HAND = {5: 3_900, 50: 19_500}  # seen: 3,750 to 3,860, and 18,840 to 19,120

# What the SDK's own instance takes of a run in the simulator.
OF_SIMULATED = 0.63  # seen: 0.635


def measured(expression: str, *, of: str = "saga", seed: int = 0) -> Any:
    """Evaluate an expression of a module of `bench` in a process of its own: pytest rewrites what it imports."""
    command = f"import dataclasses, json; from bench.{of} import *; print(json.dumps({expression}))"
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=Path(bench.__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, int]]:
    """The executed bytecodes of workflows that succeed, by their steps and shape."""
    counts = "{f'{steps} {parallel}': dataclasses.asdict(executed(steps, parallel)) for steps, parallel in %s}"
    cases = [(steps, parallel) for steps in OVER_BARE for parallel in (False, True)]
    return cast("dict[str, dict[str, int]]", measured(counts % cases))


@only_where_measured
@pytest.mark.parametrize("parallel", [False, True], ids=["in a row", "parallel"])
@pytest.mark.parametrize("steps", OVER_BARE)
def test_rule_10_a_success_costs_little(counted: dict[str, dict[str, int]], steps: int, parallel: bool) -> None:
    """Over the workflow that undoes nothing, and over the one by hand that gives the same guarantees."""
    count = counted[f"{steps} {parallel}"]
    assert count["saga"] <= OVER_BARE[steps] * count["bare"], count
    assert count["saga"] <= OVER_CAREFUL * count["careful"], count


@only_where_measured
def test_a_simulated_run_costs_little() -> None:
    """Over the SDK's own workflow instance, fed what was recorded: the activities, their payloads and the server."""
    fed, simulated = measured("bytecodes()", of="simulate")
    assert fed >= OF_SIMULATED * simulated


def test_the_count_is_the_same_each_time() -> None:
    """A limit on a number that moves would fail by chance; hashes differ between processes."""
    both = "[dataclasses.asdict(executed(10, parallel)) for parallel in (False, True)]"
    counts = [count for seed in (1, 2) for count in measured(f"[{both}, {both}]", seed=seed)]
    assert counts == [counts[0]] * 4


def test_the_count_sees_each_step() -> None:
    """Each further step adds the same number."""
    few, more, most = measured("[executed(steps, False).saga for steps in (10, 20, 30)]")
    assert most - more == pytest.approx(more - few, rel=0.02)
    assert more - few > 10 * 1000


def test_the_count_leaves_the_tracer_and_the_collector_as_they_were() -> None:
    before = sys.gettrace()
    Recording(WithSaga, 1, False).bytecodes()
    assert sys.gettrace() is before
    assert gc.isenabled()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "concurrent"])
@pytest.mark.parametrize("armed", [False, True], ids=["pushed", "armed"])
def test_undoing_is_linear(armed: bool, order: str) -> None:
    """One of four hundred undos costs no more than one of a hundred."""
    few, many = measured(f"[per_undo(count, {armed}, {order!r}) for count in (100, 400)]")
    assert few > 1000
    assert many <= 1.05 * few


@only_where_measured
def test_an_open_saga_holds_little() -> None:
    """Over the list of undos that a careful workflow holds. The SDK's part differs by 100 bytes from time to time."""
    pairs = f"[[held(workflow, steps) for workflow in (OpenByHand, OpenSaga)] for steps in {[*HELD_OVER_BY_HAND]}]"
    times = [measured(pairs) for _ in range(3)]
    for each, limit in zip(zip(*times, strict=True), HELD_OVER_BY_HAND.values(), strict=True):
        assert 0 < min(saga - hand for hand, saga in each) <= limit
