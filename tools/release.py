"""Checks the files of a release, which it leaves in build/release: `make release-check`, or with TAG=v0.1.0.

What is built is the newest commit, in two fresh clones, so that nothing of this working tree gets in.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RELEASE = ROOT / "build" / "release"
IN_THE_SDIST = re.compile(
    r"(temporal_saga|tests|examples|bench|docs|tools)/.+|PKG-INFO|LICENSE|Makefile|pyproject\.toml|\.gitignore|\w+\.md"
)
IMPORTS = """
import importlib, pkgutil, temporal_saga
assert "site-packages" in temporal_saga.__file__, temporal_saga.__file__
for each in pkgutil.walk_packages(temporal_saga.__path__, "temporal_saga."):
    # These need pytest; are a program; need what the extra `cli` brings.
    if not each.name.endswith((".pytest_plugin", ".__main__")) and not each.name.startswith("temporal_saga.cli."):
        importlib.import_module(each.name)
"""


class CheckError(Exception):
    """A check has failed."""


def main() -> None:
    """Build, compare, look inside, install, run."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        files = build_twice(temporary)
        version = next(each.name for each in files if each.suffix == ".gz")[len("temporal_saga-") : -len(".tar.gz")]
        check_tag(os.environ.get("TAG", ""), version, (ROOT / "CHANGELOG.md").read_text())
        run(sys.executable, "-m", "twine", "check", "--strict", *files)
        for file in files:
            check_contents(file, version)
            say(f"{file.name}: holds what it should")
        with server() as address:
            for file in files:
                check_installed(file, temporary / f"installed-{file.suffix[1:]}", address)
        shutil.rmtree(RELEASE, ignore_errors=True)
        shutil.copytree(files[0].parent, RELEASE)
    say(f"all is well: {version} is in {RELEASE.relative_to(ROOT)}")


def build_twice(temporary: Path) -> list[Path]:
    """Build the newest commit in two clones; return the files, which have to be the same, byte by byte."""
    if run("git", "-C", ROOT, "status", "--porcelain"):
        say("what is not committed is left out")
    moment = run("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    for name, mask in (("one", 0o022), ("two", 0o077)):
        before = os.umask(mask)
        try:
            run("git", "clone", "--quiet", "--no-hardlinks", ROOT, temporary / name)
            run(
                *(sys.executable, "-m", "build", "--outdir", temporary / name / "dist", temporary / name),
                env={**os.environ, "SOURCE_DATE_EPOCH": moment},
            )
        finally:
            os.umask(before)
    one, two = (sorted((temporary / name / "dist").iterdir()) for name in ("one", "two"))
    if [each.name for each in one] != [each.name for each in two] or len(one) != 2:
        raise CheckError(f"built {[each.name for each in one]}, and then {[each.name for each in two]}")
    for first, second in zip(one, two, strict=True):
        if not filecmp.cmp(first, second, shallow=False):
            raise CheckError(f"{first.name} differs from one build to the next")
    say("two builds are the same, byte by byte")
    return one


def check_tag(tag: str, version: str, changelog: str) -> None:
    """Raise if a tag names another version, or the changelog says nothing of this one."""
    if not tag:
        return
    if tag != f"v{version}":
        raise CheckError(f"the tag is {tag}, and pyproject.toml has {version}")
    if not re.search(rf"^## \[?{re.escape(version)}\b", changelog, re.MULTILINE):
        raise CheckError(f"CHANGELOG.md has no section for {version}")


def check_contents(file: Path, version: str) -> None:
    """Raise if a file holds what it should not, or lacks something, or describes itself wrongly."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            names = wheel.namelist()
            info = f"temporal_saga-{version}.dist-info"
            metadata = wheel.read(f"{info}/METADATA").decode()
        wrong = unexpected_in_wheel(names, info)
        needed = {"temporal_saga/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"}
    else:
        with tarfile.open(file) as sdist:
            names = [each.name.partition("/")[2] for each in sdist.getmembers() if not each.isdir()]
            packed = sdist.extractfile(f"temporal_saga-{version}/PKG-INFO")
            assert packed is not None
            metadata = packed.read().decode()
        wrong = unexpected_in_sdist(names)
        needed = {"LICENSE", "README.md", "pyproject.toml", "temporal_saga/py.typed", "tests/conftest.py"}
    if wrong:
        raise CheckError(f"{file.name} holds {', '.join(wrong)}")
    if missing := needed - set(names):
        raise CheckError(f"{file.name} lacks {', '.join(sorted(missing))}")
    check_metadata(metadata, version)


def unexpected_in_wheel(names: Iterable[str], info: str) -> list[str]:
    """Return what is neither the package nor its description."""
    return sorted(
        name for name in names if not name.startswith(("temporal_saga/", f"{info}/")) or name.endswith((".pyc", ".so"))
    )


def unexpected_in_sdist(names: Iterable[str]) -> list[str]:
    """Return what takes no part in building, testing or reading."""
    return sorted(name for name in names if not IN_THE_SDIST.fullmatch(name) or "__pycache__" in name)


def check_metadata(text: str, version: str) -> None:
    """Raise if the description of the distribution is not the project's."""
    found = Parser().parsestr(text)
    expected = {"Name": "temporal-saga", "Version": version, "License-Expression": "MIT", "Requires-Python": ">=3.10"}
    for name, value in expected.items():
        if found[name] != value:
            raise CheckError(f"the metadata has {name}: {found[name]}, not {value}")
    requirements = [
        each
        for each in found.get_all("Requires-Dist") or []
        if not each.startswith(("temporalio", "typing-extensions")) and not re.search(r";\s*extra == ", each)
    ]
    if requirements:
        raise CheckError(f"the package requires {', '.join(requirements)}")
    if not found["Project-URL"] or "quick start" not in text.lower():
        raise CheckError("the metadata lacks the links, or the README")


def check_installed(file: Path, folder: Path, address: str | None) -> None:
    """Install a file into an empty environment, away from the sources, and use it there."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", file)
    (folder / "tools").symlink_to(ROOT / "tools")
    run(python, "-c", IMPORTS, cwd=folder)
    if run(python, "-m", "tools.api", cwd=folder) != (ROOT / "tests" / "api.txt").read_text():
        raise CheckError(f"{file.name}: the public API is not the recorded one; `make api` records an intended change")
    say(f"{file.name}: installs, imports, and has the recorded API")
    check_command(file, python.with_name("temporal-saga"))
    if address is None:
        say("no server at hand: the quick start and the tutorial are left out")
        return
    code, printed = quick_start((ROOT / "README.md").read_text())
    program = folder / "quick_start.py"  # the sandbox imports the file of a workflow anew
    program.write_text(code.replace("localhost:7233", address).replace("transfer-1", file.name))
    output = run_worker(python, program)
    if not re.fullmatch(re.escape(printed).replace(re.escape("..."), "[0-9a-f-]{36}"), output):
        raise CheckError(f"{file.name}: the quick start prints {output!r}")
    say(f"{file.name}: the quick start prints what the README says")
    check_tutorial(file, python, folder / "tutorial", address)


def check_tutorial(file: Path, python: Path, folder: Path, address: str) -> None:
    """Follow the tutorial in an empty folder: paste its blocks into two files, run the program, and run the test."""
    program, test, shipped, failed = tutorial((ROOT / "docs" / "tutorial.md").read_text())
    folder.mkdir()
    (folder / "orders.py").write_text(
        program.replace("localhost:7233", address).replace('id="o-1"', f'id="{file.name}"')
    )
    (folder / "test_orders.py").write_text(test)
    for arguments, said in ((["ups"], shipped), ([], failed)):
        output = run_worker(python, folder / "orders.py", *arguments)
        if output != f"{said}\n":
            raise CheckError(f"{file.name}: the tutorial's program prints {output!r}")
    run(python, "-c", "import test_orders; test_orders.test_no_fault_loses_money()", cwd=folder)
    say(f"{file.name}: the tutorial, pasted into an empty folder, runs as the page says, and so does its test")


def check_command(file: Path, command: Path) -> None:
    """Raise if the command line does not say what it lacks, or does not run once it has that."""
    lacks = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    if lacks.returncode == 0 or "pip install 'temporal-saga[cli]'" not in lacks.stderr:
        raise CheckError(f"{file.name}: without the extra `cli`, the command says {lacks.stderr!r}")
    run(command.with_name("python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", f"{file}[cli]")
    if not all(word in run(command, "--help") for word in ("show", "list", "resolve")):
        raise CheckError(f"{file.name}: temporal-saga --help lacks a command")
    say(f"{file.name}: the command line runs with its extra")


def quick_start(readme: str) -> tuple[str, str]:
    """Return the README's program, and what it prints."""
    code, printed = re.findall(r"<!-- quick start.*?```python\n(.*?)```.*?```text\n(.*?)```", readme, re.DOTALL)[0]
    return code, printed


def tutorial(page: str) -> tuple[str, str, str, str]:
    """Return the tutorial's two files, as the page tells its reader to paste them, and what the program prints."""
    text, _, last = page.partition("## 7.")
    program, test = ("\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL)) for part in (text, last))
    shipped, failed = re.findall(r"prints\s`(.*?)`", text)
    return program, f"from orders import *\n\n{test}", shipped, failed


@contextmanager
def server() -> Iterator[str | None]:
    """Give the address of a server: one that runs, or a dev server of the CLI, if there is one."""
    running = os.environ.get("TEMPORAL_ADDRESS")
    beside = Path(sys.executable).with_name("temporal")
    cli = os.environ.get("TEMPORAL_CLI") or (str(beside) if beside.exists() else shutil.which("temporal"))
    if running or not cli:
        yield running
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [cli, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "never"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        time.sleep(2)  # the default namespace comes a little later
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def run(*command: Any, good: Collection[int] = (0,), **options: Any) -> str:
    """Run a program; return what it prints, or show all that it printed and raise."""
    words = [str(each) for each in command]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        words, capture_output=True, text=True, check=False, **options
    )
    if done.returncode not in good:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise CheckError(f"{' '.join(words)[:200]} failed")
    return done.stdout


def run_worker(python: Path, program: Path, *arguments: str) -> str:
    """Run a program with a worker, in its own folder; return what it prints."""
    # A worker's process may crash at its end, when all is done and said (github.com/temporalio/sdk-python/issues/300).
    return run(python, program, *arguments, cwd=program.parent, good=(0, -signal.SIGABRT, -signal.SIGSEGV))


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"release-check: {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CheckError as error:
        sys.exit(f"release-check: {error}")
