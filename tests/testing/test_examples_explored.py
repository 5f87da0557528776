"""`explore` on what we ship: the examples hold, the textbook does not, and broken copies of the library are caught."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import temporal_saga
from temporal_saga.testing.explorer._exploration import show_plan
from tests.mutants import HERE as PATCHES
from tests.mutants import parse
from tests.testing.worlds import EXAMPLES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "faults", "least"),
    [
        ("money_transfer", 1, 30),
        ("order", 1, 100),
        pytest.param("money_transfer", 2, 300, marks=pytest.mark.deep),
        pytest.param("order", 2, 2_000, marks=pytest.mark.deep),
    ],
)
def test_faults_lose_nothing(name: str, faults: int, least: int) -> None:
    exploration = EXAMPLES[name](faults)
    assert (exploration.violations, exploration.untried) == ([], 0), str(exploration)
    assert exploration.tried > least


def ways_to_fail(name: str, faults: int = 2) -> set[tuple[str, str]]:
    """Explore; return each way to fail, with its shortest plan."""
    return {(violation.kind, show_plan(violation.plan)) for violation in EXAMPLES[name](faults).violations}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_textbook_transfer_falls_short() -> None:
    """Three of the four hazards of the textbook; nothing in it runs in parallel."""
    assert ways_to_fail("textbook_transfer") >= {
        ("not undone", "[cancel(at=4)]"),  # in the wait for the review: `except Exception` sees no CancelledError
        ("half undone", "[fails_before('deposit'), cancel(at=6)]"),  # a cancel while compensations run loses the rest
        ("a bug unwinds", "[bug_after('withdraw')]"),  # a TypeError refunds the customer
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("faults", [1, pytest.param(2, marks=pytest.mark.deep)])
def test_the_textbook_order_falls_short(faults: int) -> None:
    """All four hazards, one of which takes two faults."""
    hazards = {
        ("not undone", "[cancel(at=4)]"),
        ("a bug unwinds", "[bug_after('charge')]"),
        ("undone too early", "[fails_before('charge')]"),  # its parallel sibling takes effect after its undo
    }
    of_two = {("half undone", "[fails_after('charge'), cancel(at=4)]")}
    assert ways_to_fail("textbook_order", faults) >= (hazards if faults == 1 else hazards | of_two)


# The mutants that one of the examples shows, with no test of their own; and how many faults it takes.
MUTANTS = {
    "an_event_more": 1,
    "armed_after_the_step": 1,
    "attempt_in_the_key": 1,
    "error_replaced": 1,
    "no_once_guard": 1,
    "order_reversed": 1,
    "random_keys": 1,
    "textbook": 1,
    "type_error_unwinds": 1,
    "cause_lost": 2,
    "failed_undo_ends_the_unwind": 2,
    "failed_undo_unreported": 2,
    "try_cancel": 2,
    "unwind_unprotected": 2,
}
QUICK = {"armed_after_the_step", "no_once_guard", "unwind_unprotected"}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.deep) for name in MUTANTS]
)
def test_a_mutant_is_caught(name: str, tmp_path: Path) -> None:
    mutant = parse(PATCHES / f"{name}.patch")
    package = tmp_path / "temporal_saga"
    shutil.copytree(Path(temporal_saga.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    broken = package / mutant.file
    broken.write_text(mutant.applied_to(broken.read_text(encoding="utf-8")), encoding="utf-8")
    for directory in ("tests", "examples"):
        (tmp_path / directory).symlink_to(ROOT / directory)
    process = subprocess.run(
        [sys.executable, "-m", "tests.testing.worlds", "money_transfer", str(MUTANTS[name]), "--first"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stdout + process.stderr
    assert "To run it again:" in process.stdout, process.stdout + process.stderr


@pytest.mark.deep
@pytest.mark.timeout(180)
def test_memory_does_not_grow_with_the_number_of_plans() -> None:
    """In a process of its own, since the most is counted. All 10,000: `python -m tests.testing.memory`."""
    program = "from tests.testing.memory import main; used = main(2_000, 500); assert used[-1] - used[0] < 4, used"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (Path(temporal_saga.__file__).parents[1], ROOT))),
    }
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "2000 plans" in process.stdout
