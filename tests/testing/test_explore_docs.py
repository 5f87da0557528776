"""The page on testing: its tests run, and a failure looks as it says."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest

from temporal_saga.testing import ViolationError
from temporal_saga.testing.explorer import picture_file
from temporal_saga.testing.pytest_plugin import SagaExplore
from tests.test_docs import ROOT, blocks, load

TEXT = (ROOT / "docs" / "testing.md").read_text()
PICTURE = ROOT / "docs" / "applies-late.svg"


@pytest.fixture
def page() -> Any:
    return load("testing")


@pytest.mark.parametrize("name", ["test_no_fault_loses_money", "test_three_faults", "test_a_cancel_in_the_wait"])
def test_a_test_of_the_page_passes(page: Any, name: str) -> None:
    getattr(page, name)()


def test_the_test_with_the_fixture_passes(page: Any) -> None:
    page.test_with_the_fixture(SagaExplore(None))


def test_a_test_file_is_short() -> None:
    (test_file,) = [code for _, code in blocks(TEXT, "python") if "def test_no_fault_loses_money" in code]
    assert len(test_file.splitlines()) < 20


def test_a_failure_looks_as_on_the_page(page: Any) -> None:
    with pytest.raises(ViolationError) as raised:
        page.test_a_bank_that_forgets()
    ((_, shown),) = blocks(TEXT, "text")
    assert str(raised.value).startswith(shown)
    drawn = picture_file(raised.value.exploration.violations[0].drawing)
    if os.environ.get("WRITE_PICTURES"):
        PICTURE.write_text(drawn)
    assert drawn == PICTURE.read_text(), "WRITE_PICTURES=1 writes it anew"


def test_every_fault_is_in_the_table() -> None:
    from temporal_saga.testing.simulator import _faults

    own = [each for each in vars(_faults).values() if inspect.isfunction(each) and each.__module__ == _faults.__name__]
    assert [each.__name__ for each in own if f"`{each.__name__}(" not in TEXT] == []
    assert len(own) > 12
