"""Random programs keep every promise, whatever happens to them; `tests/fuzz/__init__.py` tells how it works."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from . import known, without_sagas
from .__main__ import objections_to, report
from .program import Generator, show

# Of tasks that an eviction ends before they have begun.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

_BATCHES, _EACH = 20, 15


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The programs fail a lot, and say so."""
    with caplog.at_level(logging.CRITICAL, "temporalio"), caplog.at_level(logging.CRITICAL, "asyncio"):
        yield
        # What an eviction has left behind must not be closed in the middle of another test.
        gc.collect()


@pytest.mark.parametrize("batch", range(_BATCHES))
def test_random_programs_keep_every_promise(batch: int) -> None:
    """Rules 1 to 9 and 12, for random programs, disturbances and schedules."""
    for seed in range(batch * _EACH, (batch + 1) * _EACH):
        program = Generator(seed).program()
        if objections_to(program):
            pytest.fail(f"seed {seed}:\n{report(program, shrinks=False)}", pytrace=False)


@pytest.mark.parametrize("what", known.PROGRAMS)
def test_what_once_broke_a_promise_keeps_it(what: str) -> None:
    """Each program in `known.py` is right now; misuse may fail the workflow task, with a word."""
    program = known.PROGRAMS[what]
    objections = objections_to(program)
    if what in known.MISUSE and objections and objections[0].startswith("task failed: RuntimeError"):
        return
    assert not objections, f"{show(program)}\n" + "\n".join(objections)


@pytest.mark.parametrize("batch", range(10))
def test_rule_12_programs_without_sagas_do_the_same_with_the_plugin(batch: int) -> None:
    """The same commands and results: handlers, ends of the main method, cancels, continue-as-new."""
    for seed in range(batch * 10, (batch + 1) * 10):
        program = Generator(seed, sagas=False).program()
        assert without_sagas.difference(program) is None, f"seed {seed}:\n{show(program)}"


@pytest.mark.parametrize("what", without_sagas.KNOWN)
def test_rule_12_what_the_plugin_once_changed(what: str) -> None:
    """The first to close the run wins, as without the plugin."""
    assert without_sagas.difference(without_sagas.KNOWN[what]) is None
