"""Workflows in workflows."""

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, Rejected, Saga, SagaState, StepOutcome, presets
from temporal_saga.testing import Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger, step_key

STANDARD = presets.standard()


class Cloud:
    """Networks with machines in them: a network with a machine cannot be removed."""

    def __init__(self) -> None:
        self.books = Ledger()
        self.gone: set[str] = set()
        self.activities: list[Callable[..., Any]] = [
            self.add_network,
            self.drop_network,
            self.add_machine,
            self.drop_machine,
            self.bill,
            self.unbill,
        ]

    @activity.defn
    async def add_network(self, name: str) -> None:
        self.books.enter(f"network {name}", 1)

    @activity.defn
    async def drop_network(self, name: str) -> None:
        if self.books[f"machine {name}"]:
            raise ApplicationError("there is a machine in it", non_retryable=True)
        self.books.reverse()

    @activity.defn
    async def add_machine(self, name: str) -> None:
        if name in self.gone:
            raise Rejected("it was removed before it came")
        self.books.enter(f"machine {name}", 1)

    @activity.defn
    async def drop_machine(self, name: str) -> None:
        self.books.reverse()

    @activity.defn
    async def bill(self, name: str) -> None:
        self.books.enter("billed", 1)

    @activity.defn
    async def unbill(self, name: str) -> None:
        self.books.reverse()


def built_and_billed(cloud: Cloud, simulation: Simulation[Any]) -> None:
    there = {name for name, count in cloud.books.totals.items() if count}
    if simulation.status == "completed":
        assert "billed" in there
        assert len(there) >= 2
    else:
        assert not there, there


@workflow.defn
class Build:
    """Two undos that depend on each other: the machine has to go first."""

    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Cloud.add_network, name, compensation=Cloud.drop_network)
            await saga.execute_activity_method(Cloud.add_machine, name, compensation=Cloud.drop_machine)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


@workflow.defn
class Network:
    """A child that hands its stack to its parent."""

    @workflow.run
    async def run(self, name: str) -> SagaState:
        async with Saga("network", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Cloud.add_network, name, compensation=Cloud.drop_network)
            return saga.detach()


def take_over(step: StepOutcome[str, SagaState]) -> SagaState | None:
    return step.result


@workflow.defn
class BuildWithAChild:
    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await saga.execute_child_workflow(Network.run, name, compensation_from=take_over)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


@workflow.defn
class BuildInParallel:
    @workflow.run
    async def run(self, names: list[str]) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await asyncio.gather(
                *[
                    saga.execute_child_workflow(Network.run, name, key=name, compensation_from=take_over)
                    for name in names
                ]
            )


def _both_networks(cloud: Cloud, simulation: Simulation[Any]) -> None:
    assert sum(cloud.books.totals.values()) == (2 if simulation.status == "completed" else 0)


@workflow.defn
class KeptNetwork:
    """A child whose saga ends well: what it did is kept."""

    @workflow.run
    async def run(self, name: str) -> str:
        async with Saga("network", activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Cloud.add_network, name, compensation=Cloud.drop_network)
        return name


@workflow.defn
class Remove:
    """Removes a network by its name: the compensation of a child."""

    @workflow.run
    async def run(self, name: str) -> None:
        await workflow.execute_activity("remove_network", name, **presets.forward_only())


class CloudWithRemoval(Cloud):
    def __init__(self) -> None:
        super().__init__()
        self.activities.append(self.remove_network)

    @activity.defn
    async def add_network(self, name: str) -> None:
        if name in self.gone:
            raise Rejected("it was removed before it came")
        self.books.enter(f"network {name}", 1)

    @activity.defn
    async def remove_network(self, name: str) -> None:
        self.gone.add(name)
        self.books.totals[f"network {name}"] = 0


@workflow.defn
class BuildAndRemove:
    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await saga.execute_child_workflow(KeptNetwork.run, name, compensation=Remove.run)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


# What follows has a bug each.


@workflow.defn
class ForgetsTheChild:
    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await saga.execute_child_workflow(KeptNetwork.run, name)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


@workflow.defn
class StartsAPlainChild:
    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await workflow.execute_child_workflow(KeptNetwork.run, name)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


@workflow.defn
class AbandonsAChild:
    """The child goes on whatever becomes of its parent, since nobody waits for it."""

    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await workflow.start_child_workflow(
                KeptNetwork.run, name, parent_close_policy=workflow.ParentClosePolicy.ABANDON
            )
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


def _nothing_or_billed(cloud: Cloud, simulation: Simulation[Any]) -> None:
    if simulation.status != "completed":
        assert not cloud.books["network a"], "a network that nobody is billed for"


@workflow.defn
class DropsTheState:
    """The child detaches, and the parent does not join what it returns."""

    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD) as saga:
            await saga.execute_child_workflow(Network.run, name)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


@workflow.defn
class BuildsInTheWrongOrder:
    """Both in parallel, undone at the same time: the network may be dropped before its machine."""

    @workflow.run
    async def run(self, name: str) -> None:
        async with Saga("build", activity_options=STANDARD, order="concurrent") as saga:
            await asyncio.gather(
                saga.execute_activity_method(Cloud.add_machine, name, compensation=Cloud.drop_machine),
                saga.execute_activity_method(Cloud.add_network, name, compensation=Cloud.drop_network),
            )
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


class SlowCloud(Cloud):
    """A machine takes five seconds to go."""

    @activity.defn
    async def drop_machine(self, name: str) -> None:
        await asyncio.sleep(5)
        self.books.reverse()


@workflow.defn
class RemovesByResult:
    """The child's undo needs what the child returned, which a child that was cancelled or lost does not have."""

    @workflow.run
    async def run(self, name: str) -> None:
        def by_name(step: StepOutcome[str, str]) -> Compensation | None:
            return Compensation("remove_network", step.result) if step.result else None

        async with Saga("build", activity_options=STANDARD) as saga:
            await saga.execute_activity("add_network_by_name", name, result_type=str, compensation_from=by_name)
            await saga.execute_activity_method(Cloud.bill, name, compensation=Cloud.unbill)


class CloudByName(CloudWithRemoval):
    def __init__(self) -> None:
        super().__init__()
        self.activities.append(self.add_network_by_name)

    @activity.defn
    async def add_network_by_name(self, name: str) -> str:
        if name in self.gone:
            raise Rejected("it was removed before it came")
        self.books.enter(f"network {name}", 1, step_key())
        return name


def _correct(name: str, **changes: Any) -> Correct:
    base: dict[str, Any] = {"args": ("a",), "setup": Cloud, "check": built_and_billed}
    return Correct(name=name, **(base | changes))


CORRECT = [
    _correct("build", run=Build.run),
    _correct("build-child", run=BuildWithAChild.run, options={"workflows": [Network]}),
    _correct(
        "build-children",
        run=BuildInParallel.run,
        args=(["a", "b"],),
        check=_both_networks,
        options={"workflows": [Network]},
    ),
    _correct(
        "build-remove", run=BuildAndRemove.run, setup=CloudWithRemoval, options={"workflows": [KeptNetwork, Remove]}
    ),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"args": ("a",), "setup": Cloud, "check": built_and_billed}
    base["options"] = {"workflows": [KeptNetwork, Network, Remove]}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


BUGGY = [
    _buggy(
        "child-without-an-undo",
        ("KeptNetwork", "bill"),
        "The child ends well and keeps what it did; in the parent it has no compensation.",
        "the check objects once bill has failed",
        run=ForgetsTheChild.run,
    ),
    _buggy(
        "child-without-an-undo-unchecked",
        ("KeptNetwork",),
        "The same without a check.",
        "the child KeptNetwork has no compensation: it is listed",
        run=ForgetsTheChild.run,
        check=None,
        listed=True,
    ),
    _buggy(
        "plain-child",
        ("KeptNetwork", "bill"),
        "A plain child workflow in the scope: nothing undoes what it did.",
        "the check objects once bill has failed",
        run=StartsAPlainChild.run,
    ),
    _buggy(
        "child-abandoned",
        ("KeptNetwork", "bill", "cancel"),
        "A child that nobody waits for goes on after its parent has been undone.",
        "the check objects once bill has failed",
        run=AbandonsAChild.run,
        check=_nothing_or_billed,
    ),
    _buggy(
        "state-dropped",
        ("Network", "add_network", "bill"),
        "The child detaches its saga, and the parent does not take its state over.",
        "add_network took effect and was not undone",
        run=DropsTheState.run,
    ),
    _buggy(
        "state-dropped-unchecked",
        ("Network", "add_network", "bill"),
        "The same without a check: a detached state that nobody takes over.",
        "add_network took effect and was not undone",
        run=DropsTheState.run,
        check=None,
    ),
    _buggy(
        "undone-at-the-same-time",
        ("add_network:undo", "drop_network"),
        "Two undos of which one depends on the other run at the same time.",
        "the undo of add_network fails by itself",
        run=BuildsInTheWrongOrder.run,
        setup=SlowCloud,
    ),
    _buggy(
        "lost-result-not-undone",
        ("add_network_by_name",),
        "The undo needs the result of the step, and gives up if the reply was lost.",
        "add_network_by_name took effect and was not undone",
        run=RemovesByResult.run,
        setup=CloudByName,
        check=None,
    ),
]
