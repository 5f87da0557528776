"""The public API is the recorded one, and each name of it is in the site's reference."""

from __future__ import annotations

import importlib
import inspect
import re
from types import FunctionType, ModuleType

import pytest

from temporal_saga import Saga, presets
from tools import api
from tools.twins import MODULES, REFERENCE, ROOT, llms_txt, pages_of, reference_of, sections, twin_of

INDEX = (ROOT / "docs" / "README.md").read_text()


def test_the_public_api_is_the_recorded_one() -> None:
    """No public name, parameter or default changes by accident: `make api` records an intended change."""
    assert api.record().splitlines() == api.RECORD.read_text().splitlines()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference_and_says_what_it_is(module: str) -> None:
    """The reference has exactly `__all__`. The site's build checks the same of its HTML."""
    page = reference_of(module)
    names = importlib.import_module(module).__all__
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(names)
    assert (ROOT / "docs" / f"reference/{module.rpartition('.')[2]}.rst").exists()
    for name in names:
        value = getattr(importlib.import_module(module), name)
        assert not callable(value) or value.__doc__, f"{module}.{name} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_what_the_sites_build_cannot_find_is_described_by_hand(module: str) -> None:
    """Sphinx finds no docstring of a value that comes from a private module: the build would fail for it."""
    source = importlib.import_module(module)
    page = (ROOT / "docs" / f"reference/{module.rpartition('.')[2]}.rst").read_text()
    own = re.findall(r"^(\w+)(?:: .*)? = ", inspect.getsource(source), re.MULTILINE)
    values = {
        name for name in source.__all__ if not isinstance(getattr(source, name), (type, ModuleType, FunctionType))
    }
    assert values - set(own) == set(re.findall(r"^   \.\. py:data:: (\w+)$", page, re.MULTILINE))


def test_each_page_of_the_index_has_a_place_and_a_twin_whose_links_lead_to_twins() -> None:
    """A page that a contributor adds to the index is on the site; an assistant can walk from twin to twin."""
    pages = [page for _, section in sections(INDEX) for page in pages_of(section)]
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"} == set(pages) - {"changelog"}
    twins = {"index", *pages, *REFERENCE}
    for name in twins - set(REFERENCE):
        for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", twin_of(name)):
            assert target.removesuffix(".md") in twins or target.endswith(".svg"), f"{name} links to {target}"
    base = "https://example.org/"
    listed = re.findall(r"\]\(https://example\.org/([\w/-]+)\.md\)", llms_txt(base))
    assert set(listed) == twins - {"index", "reference/index"}


@pytest.mark.parametrize("page", ["AGENTS.md", "docs/faq.md", "docs/troubleshooting.md"])
def test_a_page_without_code_that_runs_names_what_exists(page: str) -> None:
    """What an assistant or a reader copies from here is there. The blocks of the other pages run."""
    text = (ROOT / page).read_text()
    for owner, of in ((Saga, r"\bsaga"), (presets, r"\bpresets")):
        names = set(re.findall(rf"{of}\.(\w+)\(", text))
        assert names <= set(dir(owner))
