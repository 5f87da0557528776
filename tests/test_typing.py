"""The typed surface under four type checkers, on the installed package.

`typing/valid.py` must have no error and `typing/invalid.py` one on each statement marked as wrong.
A mark may name checkers known to differ: their verdict on that statement is left open, so that a
newer checker which gets it right breaks nothing.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FILES = Path(__file__).parent / "typing"
OLDEST = "3.10"

# Each is told the interpreter, so that it reads the package which is installed there, and finds no
# configuration but ours: it runs in a directory that holds nothing else.
CHECKERS = {
    "mypy": ["--strict", f"--python-version={OLDEST}", "--config-file=", "--explicit-package-bases"],
    "pyright": [f"--pythonpath={sys.executable}"],
    "ty": ["check", f"--python={sys.prefix}", f"--python-version={OLDEST}", "--output-format=concise"],
    "pyrefly": [
        "check",
        f"--python-interpreter-path={sys.executable}",
        f"--python-version={OLDEST}",
        "--output-format=min-text",
        # By its own rules it looks in the directories around the package as well, where the source
        # tree is if the virtual environment lies in it.
        "--disable-search-path-heuristics",
        "--search-path=.",
    ],
}
PYRIGHT_CONFIG = {"typeCheckingMode": "strict", "pythonVersion": OLDEST}
ERROR = re.compile(r"(?im)^(?=.*\berror\b).*?(\w+\.py):(\d+):")  # in the four ways to say so


def statements(source: str) -> dict[int, int]:
    """Return, for each line of code, the line on which its statement begins."""
    begin: dict[int, int] = {}
    for node in ast.walk(ast.parse(source)):  # outer ones first, which the inner then refine
        if isinstance(node, ast.stmt):
            assert node.end_lineno is not None
            begin.update(dict.fromkeys(range(node.lineno, node.end_lineno + 1), node.lineno))
    return begin


def marks(source: str, begin: dict[int, int]) -> dict[int, str]:
    """Return the comments, by the line on which their statement begins."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {begin.get(token.start[0], 0): token.string for token in tokens if token.type == tokenize.COMMENT}


def run_checker(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a type checker on the environment of this interpreter, and on no source tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # `pyright --verifytypes` has no other way to be told the interpreter.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, "-m", name, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The files to check, with nothing else around them."""
    shutil.copytree(FILES, tmp_path / "tests" / "typing")
    (tmp_path / "tests" / "__init__.py").touch()
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT_CONFIG))
    return tmp_path


@pytest.mark.parametrize("checker", CHECKERS)
def test_each_wrong_call_is_an_error_and_no_other(checker: str, files: Path) -> None:
    run = run_checker(checker, *CHECKERS[checker], "tests/typing", cwd=files)
    errors = [(file, int(line)) for file, line in ERROR.findall(run.stdout)]
    surprises = []
    for path in sorted(FILES.glob("*.py")):
        source = path.read_text()
        begin = statements(source)
        comments = marks(source, begin)
        rejected = {begin[line] for file, line in errors if file == path.name}
        wrong = {line for line, comment in comments.items() if comment.startswith("# wrong")}
        left_open = {
            line
            for line, comment in comments.items()
            if (differs := re.search(r"not in ([\w, ]+):", comment)) and checker in differs[1].split(", ")
        }
        for line in sorted((rejected ^ wrong) - left_open):
            verdict = "is an error" if line in rejected else "is no error"
            surprises.append(f"{path.name}:{line}: {verdict}: {source.splitlines()[line - 1].strip()}")
    assert surprises == [], run.stdout + run.stderr


def test_the_public_types_are_complete(tmp_path: Path) -> None:
    run = run_checker("pyright", "--ignoreexternal", "--verifytypes=temporal_saga", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
    assert "completeness score: 100%" in run.stdout, run.stdout


def test_the_code_of_the_pages_is_typed(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    for page in (root / "README.md", *(root / "docs").glob("*.md")):
        blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text(encoding="utf-8"))
        if page == root / "README.md":
            blocks = [block for block in blocks if "__main__" in block]
            assert blocks
        name = page.stem.replace("-", "_") + ("" if page.parent == root else "_page")
        (tmp_path / f"{name}.py").write_text("\n".join(blocks), encoding="utf-8")
    # Pages leave out what a stub returns; botocore has no types.
    relaxed = ["--disable-error-code=empty-body", "--disable-error-code=import-untyped"]
    run = run_checker("mypy", *CHECKERS["mypy"], *relaxed, ".", cwd=tmp_path)
    assert run.returncode == 0, run.stdout
