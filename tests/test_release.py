"""What `make release-check` refuses."""

from __future__ import annotations

import pytest

from tools.release import CheckError, check_metadata, check_tag, quick_start, unexpected_in_sdist, unexpected_in_wheel
from tools.twins import ROOT

METADATA = (
    "Metadata-Version: 2.4\nName: temporal-saga\nVersion: 0.1.0\nLicense-Expression: MIT\nRequires-Python: >=3.10\n"
    "Project-URL: Homepage, https://example.org\nRequires-Dist: temporalio<2,>=1.35\n"
    "Requires-Dist: click<9,>=8.1; extra == 'cli'\n\n## Quick start\n"
)


@pytest.mark.parametrize("name", ["tests/test_docs.py", "temporal_saga/_run.pyc", "docs/faq.md", "other/__init__.py"])
def test_a_wheel_holds_the_package_alone(name: str) -> None:
    good = ["temporal_saga/__init__.py", "temporal_saga-0.1.0.dist-info/METADATA"]
    assert unexpected_in_wheel(good, "temporal_saga-0.1.0.dist-info") == []
    assert unexpected_in_wheel([*good, name], "temporal_saga-0.1.0.dist-info") == [name]


@pytest.mark.parametrize("name", ["build/docs/index.html", ".venv/bin/python", "tests/__pycache__/a.pyc", ".env"])
def test_an_sdist_holds_the_sources_alone(name: str) -> None:
    good = ["temporal_saga/__init__.py", "tests/api.txt", "README.md", "PKG-INFO", "LICENSE", "docs/conf.py"]
    assert unexpected_in_sdist(good) == []
    assert unexpected_in_sdist([*good, name]) == [name]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("MIT", "Apache-2.0"),
        ("Version: 0.1.0", "Version: 0.2.0"),
        (">=3.10", ">=3.9"),
        ("Requires-Dist: temporalio<2,>=1.35", "Requires-Dist: pytest"),
        ("; extra == 'cli'", "; python_version >= '3.10'"),
        ("## Quick start", ""),
    ],
)
def test_the_metadata_is_the_projects(old: str, new: str) -> None:
    check_metadata(METADATA, "0.1.0")
    with pytest.raises(CheckError):
        check_metadata(METADATA.replace(old, new), "0.1.0")


def test_a_tag_is_the_version_and_has_a_section_in_the_changelog() -> None:
    check_tag("", "0.1.0", "")
    check_tag("v0.1.0", "0.1.0", "# Changelog\n\n## 0.1.0\n")
    with pytest.raises(CheckError, match=r"pyproject\.toml"):
        check_tag("v0.2.0", "0.1.0", "## 0.1.0")
    with pytest.raises(CheckError, match="CHANGELOG"):
        check_tag("v0.1.0", "0.1.0", "## Unreleased")


def test_the_readme_has_a_quick_start() -> None:
    code, printed = quick_start((ROOT / "README.md").read_text())
    assert "localhost:7233" in code
    assert "transfer-1" in code
    assert "..." in printed
