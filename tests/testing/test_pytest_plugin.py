"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import temporal_saga

pytest_plugins = ("pytester",)

ROOTS = (Path(temporal_saga.__file__).parents[1], Path(__file__).parents[2])

TEST = """
from tests.testing.bank import Bank, {bank}, Transfer


def conserved(bank, simulation):
    assert bank.total() == 100, f"{{bank.total()}} of 100 left"


def test_transfer(saga_explore):
    exploration = saga_explore(Transfer.run, 30, setup={bank}, check=conserved, kinds=["fails_after", "applies_late"])
    assert exploration.tried {tried}
"""

HELD = """

def test_held():
    from temporal_saga.testing import explore

    explore(Transfer.run, 30, setup=Bank, check=conserved, kinds=["fails_after"])


def test_something_else():
    pass
"""


def run(pytester: pytest.Pytester, *args: str, bank: str, tried: str) -> pytest.RunResult:
    pytester.makepyfile(TEST.format(bank=bank, tried=tried))
    return pytester.runpytest_subprocess("-p", "temporal_saga.testing.pytest_plugin", *args)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, ROOTS)))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # else the entry point would register it a second time


def test_a_saga_that_holds(pytester: pytest.Pytester) -> None:
    # Without any fault, and two faults at each of two calls.
    run(pytester, bank="Bank", tried="== 5").assert_outcomes(passed=1)


def test_the_option_goes_deeper(pytester: pytest.Pytester) -> None:
    run(pytester, "--saga-faults=2", bank="Bank", tried="> 5").assert_outcomes(passed=1)


def test_the_option_makes_no_test_shallower(pytester: pytest.Pytester) -> None:
    run(pytester, "--saga-faults=0", bank="Bank", tried="== 5").assert_outcomes(passed=1)


def test_the_option_takes_no_negative_number(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--saga-faults=-3", bank="Bank", tried="> 0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--saga-faults: '-3' is not a number of faults: give 0 or more*"])


def test_a_failure_shows_the_plan_and_the_timeline(pytester: pytest.Pytester) -> None:
    result = run(pytester, bank="UnfencedBank", tried="> 0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*applied after its undo: withdraw took effect after its undo and stands*",
            "*applies_late('withdraw')*",
            "*time  task*",
            "*withdraw:undo*- undone*",
            "*plan=[[]applies_late('withdraw')[]])*",
            "*test_a_failure_shows_the_plan_and_the_timeline.py:*: ViolationError",
        ]
    )
    assert "_explore.py" not in result.stdout.str()


MISUSE = """
import pytest
from temporalio import activity, workflow

from temporal_saga import Saga, presets
from temporal_saga.testing import explore, simulate
from tests.testing.bank import Bank, Transfer


@workflow.defn
class Child:
    @workflow.run
    async def run(self) -> None: ...


@workflow.defn
class Parent:
    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=presets.standard()) as saga:
            await saga.execute_child_workflow(Child.run)


@workflow.defn
class Calls:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(opens, start_to_close_timeout=presets.standard()["start_to_close_timeout"])


@activity.defn
async def opens() -> None:
    await asyncio.open_connection("localhost", 1)  # marked


import asyncio


def test_child(saga_explore):
    saga_explore(Parent.run, setup=list)  # marked


@pytest.mark.parametrize(
    "options", [{"setup": 1}, {"setup": lambda: 1}, {"setup": Bank, "faults": "2"}, {"setup": Bank, "fault": 2}]
)
def test_option(options):
    explore(Transfer.run, 30, **options)  # marked


def test_activity():
    simulate(Transfer.run, 30)  # marked


def test_unsupported():
    simulate(Calls.run, activities=[opens])
"""


def test_misuse_shows_the_line_of_the_test_alone(pytester: pytest.Pytester) -> None:
    """Each error that the kit raises on purpose; `--full-trace` shows the kit's frames too."""
    pytester.makepyfile(MISUSE)
    result = pytester.runpytest_subprocess("-p", "temporal_saga.testing.pytest_plugin")
    result.assert_outcomes(failed=7)
    said = result.stdout.str()
    assert said.count("# marked") == 7
    assert "workflow 'Child' is not registered; registered: Parent. Give it with workflows=[...]" in said
    assert "temporal_saga/testing/" not in said.replace("\\", "/")
    full = pytester.runpytest_subprocess("-p", "temporal_saga.testing.pytest_plugin", "--full-trace", "-k", "child")
    full.assert_outcomes(failed=1)
    assert "_simulation.py" in full.stdout.str()


def test_a_page_for_each_test_that_explores(pytester: pytest.Pytester) -> None:
    """And an index that leads to them, those with violations first."""
    pytester.makepyfile(TEST.format(bank="UnfencedBank", tried="> 0") + HELD)
    result = pytester.runpytest_subprocess("-p", "temporal_saga.testing.pytest_plugin", "--saga-report=pages")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*what sagas went through: *index.html*"])
    pages = sorted((pytester.path / "pages").iterdir())
    assert len(pages) == 3, "none for a test that explores nothing"
    index = (pytester.path / "pages" / "index.html").read_text()
    assert "1 of 2 tests with violations" in index
    assert index.index("test_transfer") < index.index("test_held")
    for page in pages:
        assert page.name == "index.html" or f'href="{page.name}"' in index
    assert "applied after its undo" in next(page for page in pages if "transfer" in page.name).read_text()


def test_it_imports_nothing_of_the_kit_before_a_test_asks(pytester: pytest.Pytester) -> None:
    rooms = [f"temporal_saga.testing.{room}" for room in ("explorer", "simulator")]
    code = f"import sys, temporal_saga.testing.pytest_plugin; assert not {set(rooms)} & set(sys.modules)"
    assert pytester.run(sys.executable, "-c", code).ret == 0
