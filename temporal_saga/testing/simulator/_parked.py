"""What waits for a person in one run: who decides, if a fault says so, and how reminders end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

from temporalio.api.common.v1 import Payload

from temporal_saga import Parked, SagaReport

from ._faults import ActivityFault
from ._messages import Messages
from ._run_state import RunState
from ._sagas import PARKED_MEMO, RESOLVE
from ._trace import Call

WHO, WHY = "a person", "a plan says so"
BY_HAND_TAKES = 1.0
"""After so many seconds a person says that it has been done."""
WRONG = "wrong-decision"
"""How the ids of updates begin that have to be rejected."""

_FIELDS = {field.name for field in dataclasses.fields(Parked)}


class ParkedCalls:
    """The calls of one run that have failed for good and wait for a person."""

    def __init__(
        self,
        run: RunState,
        messages: Messages,
        *,
        reports: Callable[[], Sequence[SagaReport]],
        do_by_hand: Callable[[Call], None],
    ) -> None:
        self._run = run
        self._messages = messages
        self._reports = reports
        self._do_by_hand = do_by_hand
        self._waiting: list[Call] = []

    @property
    def labels(self) -> list[str]:
        """What waits, by the labels of its calls."""
        return [call.label for call in self._waiting] if self._run.is_open else []

    def look(self, memo: dict[str, Payload]) -> None:
        """Note what waits after an activation, and let those faults begin that decide about it."""
        if not self._waiting and PARKED_MEMO not in memo:
            return
        before, self._waiting = self._waiting, []
        for report in self._reports() if PARKED_MEMO in memo else ():
            for step in report.steps:
                if "PARKED" in (step.state, step.undo_state):
                    self._waiting += self._last_call(step.key, is_undo=step.undo_state == "PARKED")
        for call in self._waiting:
            if not any(each is call for each in before):
                call.was_parked = True
                self._run.record("parked", call.label)
                for fault in self._run.world.faults.decisions_about(call):
                    self._run.world.loop.later(60 * fault.minutes, self._decide, fault, call)

    def _last_call(self, key: str, *, is_undo: bool) -> list[Call]:
        """Return the newest call of a step, or of its undo; none if that is a callback."""
        phases = ("undo", "push") if is_undo else ("do",)
        calls = (call for call in reversed(self._run.world.journal.calls) if call.phase in phases)
        return [call for call in calls if key in (call.forward_key, call.key)][:1]

    def _decide(self, fault: ActivityFault, call: Call) -> None:
        run = self._run
        if not run.is_open:
            return
        run.world.faults.use(fault)
        run.record("decision", call.label, "a wrong answer" if fault.action == "wrong" else fault.action)
        key = call.forward_key or call.key or ""
        if fault.action == "wrong":
            for answer in _wrong_answers(key, is_undo=call.phase != "do"):
                self._send(WRONG, answer)
            return
        answer = (key, fault.action, WHO, WHY)
        if fault.action == "done_by_hand" and any(each is call for each in self._waiting):
            self._do_by_hand(call)
            run.world.loop.later(BY_HAND_TAKES, self._send, "decision", answer)
        else:
            self._send("decision", answer)

    def _send(self, update_id: str, answer: tuple[str, str, str, str]) -> None:
        run = self._run
        converter = run.world.parts.converter.of_workflow(run.start.workflow_id)
        update_id = self._messages.free_update_id(update_id)
        run.enqueue(self._messages.update(update_id, RESOLVE, converter.encode(answer)))

    def is_last_reminder(self, arguments: Sequence[Payload]) -> bool:
        """Tell whether an activity is a reminder, and nothing but further ones is to come: nobody decides any more."""
        if not self._waiting or self._run.world.has_more_than_reminders:
            return False
        number = self._reminder(arguments)
        return number is not None and number > 1

    def is_reminder(self, arguments: Sequence[Payload]) -> bool:
        """Tell whether these are the arguments of a `park_reminder=` activity."""
        return self._reminder(arguments) is not None

    def _reminder(self, arguments: Sequence[Payload]) -> int | None:
        if len(arguments) != 1:
            return None
        try:
            told: Any = self._run.world.parts.converter.of_workflow(self._run.start.workflow_id).decode(arguments)[0]
        except Exception:  # a converter that has to know the type
            return None
        if isinstance(told, dict):
            fields = cast("dict[str, Any]", told)
            return fields["reminder"] if fields.keys() == _FIELDS else None
        return told.reminder if isinstance(told, Parked) else None


def _wrong_answers(key: str, *, is_undo: bool) -> list[tuple[str, str, str, str]]:
    """Return what nobody may decide: about something else, in a way that does not fit, without a name or a reason."""
    return [
        ("unknown", "retry", WHO, WHY),
        (key, "undo" if is_undo else "done_by_hand", WHO, WHY),
        (key, "retry", "", WHY),
        (key, "retry", WHO, " "),
    ]
