"""The pytest plugin: the fixture `saga_explore`, `--saga-faults=N`, `--saga-report=DIR`, failures as timelines.

pytest loads it by its entry point, in every run on a machine that has temporal-saga installed: so nothing of the kit is
imported before a test asks for it.
"""

from __future__ import annotations

import argparse
import linecache
import re
import zlib
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from .explorer import Exploration

__all__ = ["SagaExplore", "saga_explore"]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of faults: give 0 or more")
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--saga-faults` and `--saga-report`."""
    group = parser.getgroup("temporal-saga")
    group.addoption(
        "--saga-report",
        default=None,
        metavar="DIR",
        help="write an HTML page for each test that explores, and an index.html with links to them",
    )
    group.addoption(
        "--saga-faults",
        type=_number,
        default=None,
        metavar="N",
        help="the smallest number of faults that saga_explore tries at once, if a test says fewer (by default 1)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Write pages, if the command line names a directory."""
    directory = config.getoption("--saga-report")
    if directory is not None:
        where = config.invocation_params.dir / directory
        config.pluginmanager.register(_Pages(where, leads=not hasattr(config, "workerinput")), "temporal-saga-pages")


class _Pages:
    """Writes a page for each test that explores. With pytest-xdist, workers write pages, the leader the index."""

    def __init__(self, directory: Path, *, leads: bool) -> None:
        self._directory = directory
        self._leads = leads
        self._pages: list[tuple[str, str, bool]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        from .explorer import listeners, page_of

        found: list[Exploration] = []
        listeners.append(found.append)
        try:
            yield
        finally:
            listeners.remove(found.append)
            if found:
                name = _file_name(item.nodeid)
                self._directory.mkdir(parents=True, exist_ok=True)
                (self._directory / name).write_text(page_of(found, item.nodeid), encoding="utf-8")
                item.user_properties.append((_PAGE, [name, any(each.violations for each in found)]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == _PAGE:
                address, has_violations = cast("tuple[str, bool]", value)
                self._pages.append((address, report.nodeid, has_violations))

    def pytest_sessionfinish(self) -> None:
        if self._leads and self._pages:
            from .explorer import index_of

            (self._directory / "index.html").write_text(index_of(self._pages), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._pages:
            terminalreporter.write_line(f"what sagas went through: {self._directory / 'index.html'}")


_PAGE = "temporal_saga_page"


def _file_name(test: str) -> str:
    """Return a file name that no other test has: the plain part of the test's id, and a number for the rest."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", test).strip("-")[-80:]
    return f"{plain}-{zlib.crc32(test.encode()):08x}.html"


class SagaExplore:
    """`temporal_saga.testing.explore`, with at least as many faults as `--saga-faults` says, if it is given."""

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
    """`temporal_saga.testing.explore`. With `--saga-faults=N` it goes deeper without a change of the test."""
    return SagaExplore(pytestconfig.getoption("--saga-faults"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the plan and the timeline, or what is misused, instead of a traceback through the kit."""
    if call.excinfo is not None and not item.config.getoption("fulltrace"):
        _hide_the_kit(call.excinfo)
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    # By its name: to import the class would import the kit.
    if type(error).__name__ == "ViolationError" and hasattr(error, "exploration") and call.excinfo is not None:
        entry = next((each for each in reversed(call.excinfo.traceback) if each.path == item.path), None)
        where = f"{item.path}:{entry.lineno + 1}: ViolationError" if entry is not None else "ViolationError"
        report.longrepr = f"{error}\n{where}"
    return report


def _hide_the_kit(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Leave only the user's lines in the traceback of an error that the kit raises on purpose, such as misuse."""
    entries: list[TracebackType] = []
    traceback = excinfo.value.__traceback__
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    own = [entry for entry in entries if not _is_of_the_kit(entry)]
    if own and _is_of_the_kit(entries[-1]) and _line(entries[-1]).startswith("raise "):
        # Linked anew: pytest cuts its own lines off, and goes along the links after that.
        for entry in reversed(own):
            traceback = TracebackType(traceback, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
        assert traceback is not None
        excinfo.traceback = type(excinfo.traceback)(traceback)


def _is_of_the_kit(entry: TracebackType) -> bool:
    return str(entry.tb_frame.f_globals.get("__name__", "")).startswith(f"{__package__}.")


def _line(entry: TracebackType) -> str:
    return linecache.getline(entry.tb_frame.f_code.co_filename, entry.tb_lineno).strip()
