"""The faults of one simulation, and which of them have come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ._faults import ActivationFault, ActivityFault, Fault
from ._trace import Call


def check_faults(name: str, faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults; raise if the argument of that name is not a list of them, or one can strike nowhere."""
    if isinstance(faults, Fault):
        raise TypeError(f"{name}={faults!r} is one fault: give a list, {name}=[{faults!r}]")
    faults = list(faults)
    for fault in faults:
        if isinstance(fault, ActivationFault) and fault.at < 1:
            raise ValueError(f"{fault!r}: at counts the activations from 1")
        if isinstance(fault, ActivityFault) and fault.nth < 1:
            raise ValueError(f"{fault!r}: nth counts the calls from 1")
    return faults


class PendingFaults:
    """Finds the faults of a call and of an activation; each comes once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: list[Fault] = list(faults)
        self._open = list(self.faults)
        self._outages: dict[int, float] = {}
        self._of_calls: list[ActivityFault] = []
        self._none = CallFaults(self, ())
        self._in_front: dict[int, list[ActivationFault]] = {}
        self._inside: dict[int, list[ActivationFault]] = {}
        self._slow: dict[int, ActivationFault] = {}
        for fault in self._open:
            if isinstance(fault, ActivityFault):
                self._of_calls.append(fault)
            elif fault.kind == "slow_worker":
                self._slow[fault.at] = fault
            else:
                place = self._inside if fault.kind == "cancel_with" else self._in_front
                place.setdefault(fault.at, []).append(fault)

    def of_call(self, call: Call) -> CallFaults:
        """Return the faults of a call."""
        if not self._of_calls:
            return self._none
        return CallFaults(self, [fault for fault in self._of_calls if fault.names(call)])

    def decisions_about(self, call: Call) -> list[ActivityFault]:
        """Return what a person decides about a call that is parked."""
        return [fault for fault in self._of_calls if fault.kind == "decision" and fault.names(call)]

    @property
    def of_activations(self) -> bool:
        """Whether faults are still to come in front of activations, or in them."""
        return bool(self._in_front or self._inside or self._slow)

    @property
    def are_in_front(self) -> bool:
        """Whether faults are still to come in front of activations."""
        return bool(self._in_front)

    def due(self, activation: int) -> bool:
        """Whether faults that have not come yet are to come in front of an activation."""
        return self.are_in_front and min(self._in_front) <= activation

    def take(self, activation: int, *, inside: bool = False) -> list[ActivationFault]:
        """Return the faults that are due in front of an activation, or inside it; they have come now.

        Nothing can come in front of an activation that core makes in the same workflow task, or inside it.
        """
        place = self._inside if inside else self._in_front
        if not place:
            return []
        due = sorted(at for at in place if at <= activation)
        faults = [fault for at in due for fault in place.pop(at)]
        for fault in faults:
            self.use(fault)
        return faults

    def take_slow(self, activation: int) -> ActivationFault | None:
        """Return the fault that makes the worker slow in front of an activation; it has come now."""
        fault = self._slow.pop(min(self._slow), None) if self._slow and min(self._slow) <= activation else None
        if fault is not None:
            self.use(fault)
        return fault

    def use(self, fault: Fault) -> bool:
        """Whether the fault has not come yet; it has now."""
        for position, each in enumerate(self._open):
            if each is fault:
                del self._open[position]
                return True
        return False

    def put_back(self, fault: Fault) -> None:
        """Note that a fault has found nothing to strike after all."""
        self._open.append(fault)

    def since(self, outage: Fault, now: float) -> float:
        """Return when an outage began: the first attempt that meets it begins it."""
        self.use(outage)
        return self._outages.setdefault(id(outage), now)

    @property
    def unused(self) -> list[Fault]:
        """The faults that have not come."""
        return list(self._open)


class CallFaults:
    """The faults that lie on one call."""

    def __init__(self, pending: PendingFaults, faults: Sequence[ActivityFault]) -> None:
        self._pending = pending
        self._faults = faults

    def __bool__(self) -> bool:
        return bool(self._faults)

    def has(self, kind: str) -> bool:
        """Whether a fault of that kind lies on the call."""
        return any(fault.kind == kind for fault in self._faults)

    def use(self, kind: str) -> bool:
        """Whether a fault of that kind lies on the call and has not come yet; it has now."""
        if not self._faults:
            return False  # as of most calls
        return any(fault.kind == kind and self._pending.use(fault) for fault in self._faults)

    def put_back(self, kind: str) -> None:
        """Note that a fault of that kind has found nothing to strike after all."""
        self._pending.put_back(next(fault for fault in self._faults if fault.kind == kind))

    def in_outage(self, now: float) -> bool:
        """Whether what the call talks to is down."""
        if not self._faults:
            return False
        outages = [fault for fault in self._faults if fault.kind == "outage"]
        return any(now < self._pending.since(fault, now) + 60 * fault.minutes for fault in outages)
