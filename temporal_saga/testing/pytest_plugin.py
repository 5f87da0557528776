"""The pytest plugin: the fixture `saga_explore`, `--saga-faults=N`, and failure reports that show the timeline.

pytest loads it by its entry point, in every run on a machine that has temporal-saga installed: so nothing of the kit is
imported before a test asks for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .explorer import Exploration

__all__ = ["SagaExplore", "saga_explore"]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of faults: give 0 or more")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--saga-faults`."""
    parser.getgroup("temporal-saga").addoption(
        "--saga-faults",
        type=_number,
        default=None,
        metavar="N",
        help="how many faults at once saga_explore tries at least, where a test says fewer (or nothing, which is 1)",
    )


class SagaExplore:
    """`temporal_saga.testing.explore`, with at least as many faults as the command line says, if it does."""

    def __init__(self, at_least: int | None) -> None:
        self._at_least = at_least

    def __call__(self, workflow_run: Any, *args: Any, faults: int = 1, **options: Any) -> Exploration:
        """Explore; the arguments are those of `explore`."""
        __tracebackhide__ = True
        from .explorer import explore

        deep = faults if self._at_least is None else max(faults, self._at_least)
        return explore(workflow_run, *args, faults=deep, **options)


@pytest.fixture
def saga_explore(pytestconfig: pytest.Config) -> SagaExplore:
    """`temporal_saga.testing.explore`, which `--saga-faults=N` takes deeper without a change of the test."""
    return SagaExplore(pytestconfig.getoption("--saga-faults"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the plan and the timeline in place of a traceback through the kit."""
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    # By its name: to import the class would import the kit.
    if type(error).__name__ == "ViolationError" and hasattr(error, "exploration") and call.excinfo is not None:
        entry = next((each for each in reversed(call.excinfo.traceback) if each.path == item.path), None)
        where = f"{item.path}:{entry.lineno + 1}: ViolationError" if entry is not None else "ViolationError"
        report.longrepr = f"{error}\n{where}"
    return report
