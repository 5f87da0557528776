"""`make idioms`: sagas by hand leave effects standing, ours leaves none, and the pages quote what it prints."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bench.idioms
from bench.idioms.providers import Fenced
from bench.idioms.record import IDIOMS, PROVIDERS, STORIES, Count, Provider, Story, World, count, unaccounted
from bench.idioms.retry_loop import TransferWorkflow as RetryLoop
from bench.idioms.retry_policy import TransferWorkflow as RetryPolicy
from bench.idioms.steps import Transfer
from bench.idioms.table import COLUMNS, Cell, markdown, quoted, rows, write
from temporal_saga.testing import (
    ActivationFault,
    ActivityFault,
    Simulation,
    cancel,
    fails_after,
    fails_before,
    simulate,
)

pytestmark = pytest.mark.timeout(180)  # the first test waits for a table of 1,360 runs

ROOT = Path(bench.idioms.__file__).parents[2]
OURS = [name for name, idiom in IDIOMS.items() if idiom.is_ours]
BY_HAND = [name for name, idiom in IDIOMS.items() if not idiom.is_ours]
# These undo whatever one fault brings about. Two faults are enough.
AT_TWO_FAULTS = ["shielded", "retry-loop", "retry-policy"]
PAGES = ("README.md", "docs/by-hand.md")


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def cells(table: str) -> list[list[str]]:
    """Return the rows of a Markdown table, as texts."""
    return [line.strip("| ").split(" | ") for line in table.splitlines() if not line.startswith("|---")]


@pytest.fixture(scope="module")
def one_fault() -> dict[Cell, Count]:
    """The record at depth 1."""
    return {(name, story, by): count(name, story, by, 1) for name in IDIOMS for story, by in COLUMNS}


@pytest.mark.parametrize("name", [name for name in BY_HAND if name not in AT_TWO_FAULTS])
def test_an_idiom_falls_short_at_one_fault(one_fault: dict[Cell, Count], name: str) -> None:
    """In each story, whatever the providers do."""
    assert all(one_fault[name, story, by].standing for story, by in COLUMNS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [AT_TWO_FAULTS[0], *[pytest.param(n, marks=pytest.mark.deep) for n in AT_TWO_FAULTS[1:]]]
)
def test_an_idiom_falls_short_at_two_faults(name: str) -> None:
    """And as often as the page says."""
    found = count(name, "order", "idempotent", 2)
    assert found.standing
    assert str(found) == in_the_page(name, "order", "idempotent")


@pytest.mark.slow
@pytest.mark.deep
def test_ours_leaves_nothing_standing_at_two_faults() -> None:
    """And it is tried as often as the page says."""
    found = count("saga", "transfer", "fenced", 2)
    assert found.standing == ()
    assert str(found) == in_the_page("saga", "transfer", "fenced")


def in_the_page(name: str, story: Story, provider: Provider) -> str:
    (row,) = [row for row in cells(quoted(page("docs/by-hand.md"), 2)) if row[0] == IDIOMS[name].title]
    return row[1 + COLUMNS.index((story, provider))]


def test_ours_leaves_nothing_standing_at_one_fault(one_fault: dict[Cell, Count]) -> None:
    assert OURS == ["saga"]
    for story, by in COLUMNS:
        found = one_fault["saga", story, by]
        assert found.standing == ()
        assert found.plans > 30


def test_the_last_row_of_each_table_is_ours_with_zeros() -> None:
    for text in (quoted(page("README.md"), 2), quoted(page("docs/by-hand.md"), 1), quoted(page("docs/by-hand.md"), 2)):
        table = cells(text)
        assert [row[0] for row in table[1:]] == [idiom.title for idiom in IDIOMS.values()]
        assert all(cell.startswith("0 of ") for cell in table[-1][1:])


def test_the_pages_quote_what_the_command_prints(one_fault: dict[Cell, Count]) -> None:
    """`make idioms IDIOMS=--write` brings them up to date."""
    assert quoted(page("docs/by-hand.md"), 1) == markdown(rows(one_fault, [*IDIOMS], 1))
    assert quoted(page("README.md"), 2) == quoted(page("docs/by-hand.md"), 2)


def test_the_page_says_of_each_idiom_what_its_code_says() -> None:
    text = " ".join(page("docs/by-hand.md").split())
    for name in BY_HAND:
        module = IDIOMS[name].module
        says = " ".join((inspect.getdoc(module) or "").split())
        assert "Seen in: " in says
        assert "Misses: " in says
        assert says in text, name
        assert f"(../bench/idioms/{Path(module.__file__ or '').name})" in text, name


def test_the_pages_are_written_anew(tmp_path: Path) -> None:
    """Only the tables change, and each by its depth."""
    path = tmp_path / "page.md"
    path.write_text(
        "a\n<!-- make idioms: 2 -->\nold\n<!-- end -->\nb\n<!-- make idioms: 1 -->\n<!-- end -->\nc\n", "utf-8"
    )
    write(path, {1: "one", 2: "two\ntwo", 3: "three"})
    text = path.read_text("utf-8")
    assert text == (
        "a\n<!-- make idioms: 2 -->\ntwo\ntwo\n<!-- end -->\nb\n<!-- make idioms: 1 -->\none\n<!-- end -->\nc\n"
    )
    assert (quoted(text, 1), quoted(text, 2), quoted(text, 3)) == ("one", "two\ntwo", "")


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.idioms", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_the_table(one_fault: dict[Cell, Count]) -> None:
    """In columns of one width, with its progress on stderr."""
    done = run_command("--depth", "1", "--only", "saga", "--only", "appended-after", "--processes", "1", "--plans")
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()[:3]
    assert {len(header), *map(len, lines)} == {len(header)}
    for name, line in zip(("appended-after", "saga"), lines, strict=True):
        assert line.startswith(IDIOMS[name].title.replace("`", ""))
        counts = [f"{one_fault[name, story, by]}" for story, by in COLUMNS]
        assert line.split("  ")[-1].strip() == counts[-1]
        assert all(each in line for each in counts)
    assert "appended-after, transfer, fenced:\n  [" in done.stdout
    assert "8 of 8 explorations" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--depth", "0"], "1 or more"),
        (["--only", "x"], "appended-after"),
        (["--write", "--only", "saga"], "leave out --only"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], says: str) -> None:
    done = run_command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


# --- how it is counted ---


def judged(workflow: Any, faults: list[ActivityFault | ActivationFault]) -> tuple[Simulation[None], set[str], set[str]]:
    """Run a transfer by hand; return what stands, and what of that the run's error does not tell."""
    world = World("transfer", Fenced())
    run = simulate(workflow.run, Transfer("t-1", "A", "B", 30), activities=world.activities, faults=faults)
    standing = world.books.standing()
    return run, standing, unaccounted(standing, run)


def test_an_undo_that_failed_in_silence_counts() -> None:
    run, standing, counted = judged(RetryPolicy, [fails_after("deposit"), fails_before("reverse_deposit")])
    assert (run.status, standing, counted) == ("failed", {"deposit"}, {"deposit"})


def test_an_undo_that_failed_and_is_named_does_not_count() -> None:
    from bench.idioms.appended_before import TransferWorkflow

    run, standing, counted = judged(TransferWorkflow, [fails_after("deposit"), fails_before("reverse_deposit")])
    assert (run.status, standing, counted) == ("failed", {"deposit", "withdraw"}, {"withdraw"})


def test_the_retry_loop_falls_short_at_three_faults_with_fenced_providers_too() -> None:
    """As the page says: a cancel in the sleep of the loop."""
    run, standing, counted = judged(RetryLoop, [fails_before("deposit"), fails_before("reverse_deposit"), cancel(at=6)])
    assert (run.status, standing, counted) == ("cancelled", {"withdraw"}, {"withdraw"})


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("name", IDIOMS)
def test_nobody_can_undo_what_comes_after_all_else(name: str, story: Story) -> None:
    """Hence `applies_late` is not tried with idempotent providers; ours is no exception. A fence refuses the call."""
    late = {provider: count(name, story, provider, 1, kinds=["applies_late"]) for provider in PROVIDERS}
    assert len(late["idempotent"].standing) == 3
    if IDIOMS[name].is_ours:
        assert late["fenced"].standing == ()
