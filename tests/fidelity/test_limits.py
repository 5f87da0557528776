"""What the simulator cannot do is a clear error that names it; so is an SDK that has changed underneath."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import importlib
import importlib.util
import re
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import nexusrpc
import pytest
import temporalio.service
import temporalio.worker
import temporalio.workflow
from temporalio import activity, workflow
from temporalio.converter import DataConverter, ExternalStorage, StorageDriver

from temporal_saga.testing import SimulationError, UnsupportedError, simulate
from temporal_saga.testing.simulator import _sdk

MINUTE = timedelta(minutes=1)


# --- what cannot be simulated -------------------------------------------------------------------


@activity.defn
async def nothing() -> None:
    pass


@activity.defn
async def on_the_network() -> None:
    await asyncio.open_connection("localhost", 9)


@activity.defn
async def in_a_process_of_its_own() -> None:
    await asyncio.create_subprocess_exec("true")


@nexusrpc.service
class Numbers:
    double: nexusrpc.Operation[int, int]


@workflow.defn
class Uses:
    @workflow.run
    async def run(self, what: str) -> None:
        if what == "child":
            await asyncio.sleep(3600)
        elif what == "local activity":
            await workflow.execute_local_activity(nothing, start_to_close_timeout=MINUTE)
        elif what == "nexus":
            client = workflow.create_nexus_client(service=Numbers, endpoint="numbers")
            await client.execute_operation(Numbers.double, 21)
        elif what == "cron":
            await workflow.execute_child_workflow(Uses.run, "child", cron_schedule="* * * * *")
        else:
            await workflow.execute_activity(what, start_to_close_timeout=MINUTE)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("local activity", "a local activity cannot be simulated"),
        ("nexus", "a Nexus operation cannot be simulated"),
        ("cron", "a child workflow with a cron schedule cannot be simulated"),
        ("on_the_network", r"create_connection\(\) does not work in a simulation"),
        ("in_a_process_of_its_own", r"subprocess_exec\(\) does not work in a simulation"),
        ("unheard_of", "activity 'unheard_of' is not registered; registered: in_a_process"),
    ],
)
def test_what_cannot_be_simulated_is_named(what: str, message: str) -> None:
    activities = [nothing, on_the_network, in_a_process_of_its_own]
    with pytest.raises(SimulationError, match=message):
        simulate(Uses.run, what, activities=activities)


def test_what_only_a_clients_handle_can_do_is_named() -> None:
    """It is an AttributeError too, so that `hasattr` works; a name that no handle has is that alone."""

    async def client(handle: Any) -> None:
        assert not hasattr(handle, "fetch_history")
        with pytest.raises(AttributeError, match="no attribute 'fetch_fistory'") as typo:
            await handle.fetch_fistory()
        assert not isinstance(typo.value, SimulationError)
        await handle.fetch_history()

    with pytest.raises(UnsupportedError, match="fetch_history of a workflow's handle cannot be simulated"):
        simulate(Uses.run, "child", client=client)


class Shelf(StorageDriver):
    """Never asked: a stand-in is enough."""

    def name(self) -> str:
        return "shelf"

    async def store(self, *args: Any) -> Any:
        raise NotImplementedError

    async def retrieve(self, *args: Any) -> Any:
        raise NotImplementedError


def test_external_storage_is_named() -> None:
    converter = dataclasses.replace(DataConverter.default, external_storage=ExternalStorage(drivers=[Shelf()]))
    with pytest.raises(UnsupportedError, match="external storage cannot be simulated"):
        simulate(Uses.run, "nothing", data_converter=converter)


# --- an SDK that has changed --------------------------------------------------------------------


def load_again(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the adapter once more, beside the one that is loaded."""
    name = "temporal_saga.testing.simulator._sdk_again"
    spec = importlib.util.spec_from_file_location(name, _sdk.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def private_names() -> list[tuple[str, str]]:
    """What the adapter takes from modules of the SDK that the SDK does not mean for others: module and name."""
    tree = ast.parse(Path(_sdk.__file__).read_text(encoding="utf-8"))
    modules = {name: value.__name__ for name, value in vars(_sdk).items() if isinstance(value, ModuleType)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("temporalio"):
            is_private = "._" in str(node.module) or ".bridge" in str(node.module)
            found |= {(str(node.module), each.name) for each in node.names if is_private or each.name[0] == "_"}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id, "")
            if module.startswith("temporalio") and (node.attr[0] == "_" or ".bridge" in module):
                found.add((module, node.attr))
    return sorted(found)


def complaint(what: str) -> str:
    ours, theirs = re.escape(_sdk.MADE_FOR), re.escape(temporalio.service.__version__)
    return rf"made for temporalio {ours}, and temporalio {theirs} is another inside \(.*{what}"


def test_the_adapter_loads_with_this_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_again(monkeypatch).MADE_FOR == _sdk.MADE_FOR
    assert ("temporalio.workflow", "_Definition") in private_names()


@pytest.mark.parametrize(("module", "name"), private_names())
def test_a_name_that_the_sdk_has_no_more(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(importlib.import_module(module), name)
    with pytest.raises(SimulationError, match=complaint(name)):
        load_again(monkeypatch)


@pytest.mark.parametrize(
    ("module", "owner", "field"),
    [(temporalio.workflow, "Info", "root"), (temporalio.worker, "WorkflowInstanceDetails", "randomness_seed")],
)
def test_fields_that_come_and_go(module: Any, owner: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = dataclasses.fields(getattr(module, owner))
    kept = [(each.name, Any) for each in fields if each.name != field and each.default is dataclasses.MISSING]
    monkeypatch.setattr(module, owner, dataclasses.make_dataclass(owner, kept))
    with pytest.raises(SimulationError, match=complaint(f"{owner}: .*{field}")):
        load_again(monkeypatch)
    more = dataclasses.make_dataclass(owner, [("brand_new", Any)], bases=(dataclasses.make_dataclass(owner, [*kept]),))
    monkeypatch.setattr(module, owner, more)
    with pytest.raises(SimulationError, match=complaint(f"{owner}: brand_new")):
        load_again(monkeypatch)


def test_only_the_adapter_touches_what_is_private() -> None:
    """The rest of the simulator goes by what the SDK documents, and by its protocol's messages."""
    package = Path(_sdk.__file__).parent.parent
    private = re.compile(
        r"(from temporalio[\w.]* import|\bimport temporalio|\b(workflow|common|activity|client)\.).*\b_[A-Za-z]"
    )
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "_sdk.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if private.search(line)
    ]
    assert found == []
