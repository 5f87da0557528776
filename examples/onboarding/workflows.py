"""The onboarding: from the sign-up to the first sign-in, or back to nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Declined, Saga, SagaDeadlineExceeded, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Office
    from .models import Mail, Signup, State, Status


@workflow.defn
class Onboarding:
    """Creates what a user needs. If the user does not come, takes it away, newest first."""

    @workflow.init
    def __init__(self, signup: Signup) -> None:
        # The deadline is for all up to the pivot, whatever the body waits for.
        self._saga = Saga(
            "onboarding", activity_options=presets.standard(), deadline=timedelta(seconds=signup.give_up_after)
        )
        self._state, self._step = State.RUNNING, "start"
        self._verified = self._signed_in = self._cancelled = False

    @workflow.run
    async def run(self, signup: Signup) -> Status:
        """Returns how it ended. A no is an answer; a fault that outlasts its retries fails, once all is undone."""
        try:
            await self._onboard(signup)
            self._state = State.ONBOARDED
        except SagaDeadlineExceeded:
            self._state = State.TIMED_OUT
        except (ActivityError, Declined) as error:
            answer = error.cause if isinstance(error, ActivityError) else error
            if not isinstance(answer, ApplicationError) or answer.type != "Declined":
                raise
            self._state = State.CANCELLED if self._cancelled else State.REFUSED
        return self.status()

    async def _onboard(self, signup: Signup) -> None:
        async with self._saga as saga:
            self._enter("create_account")
            await saga.execute_activity_method(Office.create_account, signup, compensation=Office.delete_account)
            await self._send("send_verification", signup.email, "please verify your address")
            self._enter("wait_for_verification")
            with suppress(asyncio.TimeoutError):
                remind_after = timedelta(seconds=signup.remind_after)
                await workflow.wait_condition(lambda: self._verified or self._cancelled, timeout=remind_after)
            if not self._verified:
                await self._send("send_reminder", signup.email, "you have not verified your address yet")
                self._enter("wait_for_verification")
                await workflow.wait_condition(lambda: self._verified or self._cancelled)

            self._enter("create_workspace")
            await saga.execute_activity_method(Office.create_workspace, signup, compensation=Office.delete_workspace)
            self._enter("grant_role")
            await saga.execute_activity_method(Office.grant_role, signup, compensation=Office.revoke_role)
            await self._send("send_welcome", signup.email, f"welcome to {signup.team}")
            self._enter("wait_for_sign_in")
            await workflow.wait_condition(lambda: self._signed_in or self._cancelled)
            self._enter("notify_admin")

            # The user has seen the workspace: from here on nobody takes it away.
            saga.pivot()
            await self._send("notify_admin", "admin@example.com", f"{signup.email} is here")

    # The handlers only record. The main method decides, and what came first counts.

    @workflow.signal
    def verified(self) -> None:
        """The user has followed the link in the mail."""
        self._verified = True

    @workflow.signal
    def signed_in(self) -> None:
        """The user has signed in."""
        self._signed_in = self._signed_in or not self._cancelled

    @workflow.signal
    def cancel_signup(self) -> None:
        """The user has thought better of it. May come at any moment; too late once the user has signed in."""
        self._cancelled = self._cancelled or not self._signed_in

    @workflow.query
    def status(self) -> Status:
        """Where it stands, and which steps hold."""
        try:
            steps = self._saga.report().steps
        except RuntimeError:  # asked before the first workflow task
            steps = []
        holds = [step.name for step in steps if step.state == "APPLIED" and step.undo_state != "DONE"]
        return Status(self._state, self._step, holds)

    async def _send(self, step: str, to: str, text: str) -> None:
        self._enter(step)
        # No mail is worth undoing what it tells of: each is tried until it is sent.
        options = presets.forward_only()
        await self._saga.execute_activity_method(Office.send, Mail(to, text), step=step, **options)

    def _enter(self, step: str) -> None:
        if self._cancelled:
            raise Declined("cancelled by the user")
        self._step = step
