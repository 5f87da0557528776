"""The façade: the sandbox runs it in each workflow run, so that it costs next to nothing and changes no class."""

from __future__ import annotations

import ast
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import temporal_saga
from temporal_saga import errors, presets
from tests.driver import Run

pytest_plugins = ("pytester",)

ROOTS = (Path(temporal_saga.__file__).parents[1], Path(__file__).parents[1])

# A module of its own: pytest rewrites a test's module, which then imports pytest.
WORKFLOW = """
import sys

from temporalio import workflow

import temporal_saga
from temporal_saga import presets


@workflow.defn
class Modules:
    @workflow.run
    async def run(self) -> list[str]:
        return sorted(name for name in sys.modules if name.partition(".")[0] in ("_pytest", "pytest"))
"""
# What pytest does for a package with an entry point for pytest, as an installed temporal-saga is one.
CONFTEST = """
import pytest

pytest.register_assert_rewrite("temporal_saga")
"""
TEST = """
import temporal_saga
import temporal_saga._api
from modules import Modules
from temporal_saga.testing import simulate


def test_sandboxed():
    assert "@pytest_ar" in vars(temporal_saga._api), "pytest rewrites the package"
    assert simulate(Modules.run, plugins=[], sandboxed=True).result() == []
"""


def test_a_sandboxed_run_under_pytest_imports_nothing_of_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: a sandboxed run costs the same inside pytest (rule 10)."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, ROOTS)))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(modules=WORKFLOW, test_modules=TEST)
    pytester.makeconftest(CONFTEST)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_facade_imports_one_module_of_the_package_with_one_statement() -> None:
    """Promise: what the façade costs a run is one import that passes through (rule 10)."""
    tree = ast.parse(Path(temporal_saga.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    assert names == ["sys", "temporalio", "temporal_saga._api"]
    (block,) = (node for node in tree.body if isinstance(node, ast.With))
    assert imports[-1] in block.body


@workflow.defn
class Identities:
    """Imports in the ways that a workflow may."""

    @workflow.run
    async def run(self) -> dict[str, int]:
        import temporal_saga.errors
        import temporal_saga.presets
        from temporal_saga.errors import Declined
        from temporal_saga.presets import standard

        found: dict[str, Any] = {name: getattr(temporal_saga, name) for name in temporal_saga.__all__}
        found |= {"Declined": Declined, "standard": standard}
        found |= {name: module for name, module in sys.modules.items() if name.startswith("temporal_saga.")}
        return {name: id(value) for name, value in found.items()}


def test_the_sandbox_has_the_same_modules_and_names_as_the_process() -> None:
    """Promise: what a workflow raises and catches is the library's, whatever it imports it from, without the plugin."""
    inside: dict[str, int] = Run(Identities, runner=SandboxedWorkflowRunner()).autopilot({}).result
    expected = {name: getattr(temporal_saga, name) for name in temporal_saga.__all__}
    expected |= {"standard": presets.standard}
    modules = {name for name in inside if name.startswith("temporal_saga.")}
    assert {"temporal_saga._saga", "temporal_saga.errors", "temporal_saga.presets"} <= modules
    expected |= {name: sys.modules[name] for name in modules}
    assert inside == {name: id(value) for name, value in expected.items()}


@workflow.defn
class Deadline:
    @workflow.run
    async def run(self) -> str:
        try:
            async with temporal_saga.Saga(deadline=timedelta(seconds=1)):
                await workflow.sleep(60)
        except errors.SagaDeadlineExceeded:
            return "caught"
        return "in time"


def test_a_sandboxed_workflow_catches_what_the_library_raises() -> None:
    """Promise: the same, seen by a workflow: `errors.SagaDeadlineExceeded` is the error that a saga raises."""
    run = Run(Deadline, runner=SandboxedWorkflowRunner()).start()
    run.advance(timedelta(seconds=2))
    assert run.result == "caught"
