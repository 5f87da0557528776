"""What people see of an exploration: the table, the causes, the picture, the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from temporal_saga._picture import SHAPES, Drawing, Mark, legend_of, picture, symbol
from temporal_saga.testing import (
    ActivityFault,
    Exploration,
    Violation,
    applies_late,
    cancel,
    explore,
    fails_after,
    fails_before,
    fails_once,
    restart,
    simulate,
    worker_lost,
)
from temporal_saga.testing.explorer import index_of, page_of
from temporal_saga.testing.explorer._lanes import drawing_of
from tests.testing.bank import Bank, Transfer, UnfencedBank

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def broken() -> Exploration:
    kinds: Any = ["fails_after", "applies_late", "cancel"]
    return explore(Transfer.run, 30, setup=UnfencedBank, check=lambda b, _: b.total() == 100, kinds=kinds, fail=False)


def test_the_table_counts_each_plan_once(broken: Exploration) -> None:
    """The run without a fault apart."""
    tallies = broken.coverage.cells.values()
    assert sum(each.held + each.violated for each in tallies) == broken.tried - 1
    assert {pair for pair, each in broken.coverage.cells.items() if each.violated} == {
        ("withdraw", "applies_late"),
        ("deposit", "applies_late"),
    }
    assert [line.split() for line in str(broken.coverage).splitlines()] == [
        ["fails", "applies"],
        ["after", "late"],
        ["withdraw", "1", "1x"],
        ["deposit", "1", "1x"],
        [],
        ["cancel"],
        ["the", "workflow", "4"],
    ]


def test_what_was_not_tried_is_in_the_table() -> None:
    """With first=True, all that would have come after the violation."""
    exploration = explore(
        Transfer.run, 30, setup=UnfencedBank, kinds=["applies_late", "fails_after"], first=True, fail=False
    )
    assert sum(each.untried for each in exploration.coverage.cells.values()) == exploration.untried > 0
    assert "?" in str(exploration.coverage)


def test_one_bug_is_one_cause_with_one_timeline(broken: Exploration) -> None:
    """The check objects to what the kit objects to as well, and at the other step: that is one bug."""
    assert len(broken.violations) == 2
    (cause,) = broken.causes
    assert cause.violations == tuple(broken.violations)
    text = str(broken)
    assert text.count("task\n") == 1, "one timeline"
    assert "1. withdraw, deposit: 2 ways to fail" in text


def violation(kind: str, *plan: Any, about: str = "") -> Violation:
    return Violation(plan, kind, "message", "timeline", "line", about=about)


def test_causes_are_apart_where_nothing_joins_them() -> None:
    """They are joined by a plan, a step, or a last fault; and through a third."""
    one = violation("a", fails_after("x"), about="x")
    other = violation("b", fails_before("y"), about="y")
    joins = violation("b", fails_after("x"), about="y")
    assert [cause.violations for cause in Exploration("W", 1, violations=[one, other]).causes] == [(one,), (other,)]
    assert len(Exploration("W", 1, violations=[one, other, joins]).causes) == 1
    assert len(Exploration("W", 1, violations=[violation("a", cancel(at=1)), violation("a", cancel(at=2))]).causes) == 1
    assert (
        len(Exploration("W", 1, violations=[violation("a", cancel(at=1)), violation("a", restart(at=2))]).causes) == 2
    )


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (fails_before, "x failed (its function had not run): SimulatedFailure"),
        (fails_after, "x failed (its function had run): SimulatedFailure"),
        (fails_once, "x failed, to be tried again (its function had not run)"),
        (worker_lost, "x timed out (its function had run)"),
        (applies_late, "x timed out (its function had not returned)"),
    ],
)
def test_a_timeline_says_whether_a_function_ran(fault: Any, said: str) -> None:
    bank = Bank()
    assert said in str(simulate(Transfer.run, 30, activities=bank.activities, faults=[fault("deposit")]))


# --- the picture -----------------------------------------------------------------------------------------------------


def drawing(*faults: Any) -> Drawing:
    return drawing_of(simulate(Transfer.run, 30, activities=UnfencedBank().activities, faults=faults))


def shapes(drawn: Drawing, lane: str) -> list[str]:
    return [mark.shape for mark in drawn.marks if drawn.lanes[mark.lane] == lane]


def test_a_run_as_lanes_and_marks() -> None:
    """A lane for the workflow and each step, its undo on the same; each thing that happened in a column of its own."""
    drawn = drawing(fails_after("deposit"))
    assert drawn.lanes == ("workflow", "withdraw", "deposit")
    assert shapes(drawn, "withdraw") == ["applied", "undone"]
    assert shapes(drawn, "deposit") == ["failed", "undone"]
    assert shapes(drawn, "workflow")[-1] == "closed badly"
    (failed,) = [mark for mark in drawn.marks if mark.shape == "failed"]
    assert (failed.ran, failed.is_struck) == (True, True)
    assert len(drawn.bars) == 4
    assert all(0 <= bar.begin < bar.end < len(drawn.marks) for bar in drawn.bars)


def test_late_and_cancelled_and_good() -> None:
    assert "late" in shapes(drawing(applies_late("withdraw")), "withdraw")
    assert "fault" in shapes(drawing(cancel(at=3)), "workflow")
    assert shapes(drawing(), "workflow")[-1] == "closed well"


def test_each_shape_is_told_from_all_others_without_its_color() -> None:
    plain = {re.sub(r"var\(--[a-z-]*, #[0-9a-f]*\)", "color", symbol(shape)) for shape in SHAPES}
    assert len(plain) == len(SHAPES) - 1, "done and anything else are one small ring"


def test_a_picture_is_svg_with_a_word_for_each_mark() -> None:
    drawn = drawing(fails_after("deposit"))
    root = ET.fromstring(picture(drawn))
    titles = [each.text or "" for each in root.iter(f"{SVG}title")]
    assert len(titles) == len(drawn.marks)
    assert titles[1] == "2. +0s withdraw applied"
    assert {means for _, means in legend_of(drawn)} >= {"took effect", "undone", "failed, and its function had run"}


def test_a_picture_of_nothing() -> None:
    assert ET.fromstring(picture(Drawing(("workflow",)))).get("width")


# --- the page --------------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Notes what a page would load, and whether each element is closed."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "data", "action")]
        self.loads += [tag] if tag in ("script", "link", "iframe", "img", "object") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_loads_nothing(broken: Exploration, tmp_path: Path) -> None:
    """It is whole, for both of a reader's schemes, and leads nowhere but to itself."""
    path = broken.save(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert all(each.startswith("href=#") for each in reader.loads)
    assert "url(" not in text
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    for word in ("applied after its undo", "applies_late(&#x27;withdraw&#x27;)", "1\u2009✗", "</svg>", "the workflow"):
        assert word in text


def test_a_page_says_what_it_is_given_and_nothing_else() -> None:
    """Names and messages are text, whatever they hold."""
    wild = "<script>alert('&')</script>"
    exploration = Exploration(wild, 1, tried=2)
    exploration.coverage.at(wild, wild).violated = 1
    drawn = Drawing((wild,), (Mark(0, "failed", wild, wild, wild),))
    exploration.violations.append(
        Violation((ActivityFault("fails_after", wild),), wild, wild, wild, wild, 1, wild, (wild,), drawn)
    )
    exploration.pruned[wild] = 1
    for text in (page_of([exploration, exploration], wild), index_of([(wild, wild, True)])):
        reader = Reader()
        reader.feed(text)
        assert "<script" not in text
        assert "script" not in reader.loads


def test_a_page_of_several(broken: Exploration) -> None:
    held = explore(Transfer.run, 30, setup=Bank, kinds=["fails_after"])
    text = page_of([held, broken], "tests")
    assert "1 of 2 with violations" in text
    assert len(re.findall(r'id="[^"]*"', text)) == len(set(re.findall(r'id="[^"]*"', text))) == 1
