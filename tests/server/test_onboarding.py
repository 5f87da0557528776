"""The onboarding on a real server: each end that its README names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment

from examples.onboarding.__main__ import QUEUE, start, working
from examples.onboarding.activities import Office
from examples.onboarding.models import Signup, State, Status
from examples.onboarding.workflows import Onboarding
from tests.server.support import eventually

Handle = WorkflowHandle[Onboarding, Status]


class BrokenOffice(Office):
    """Grants no role to a team of that name."""

    @activity.defn
    def grant_role(self, signup: Signup) -> None:
        if signup.team.startswith("broken"):
            raise ApplicationError("no such directory", non_retryable=True)
        super().grant_role(signup)


@pytest.fixture(scope="module")
async def office(client: Client) -> AsyncIterator[BrokenOffice]:
    office = BrokenOffice()
    async with working(client, office):
        yield office
    office.close()


@pytest.fixture
async def virtual(time_skipping_env: WorkflowEnvironment) -> AsyncIterator[tuple[Client, Office]]:
    office = Office()
    async with working(time_skipping_env.client, office):
        yield time_skipping_env.client, office
    office.close()


def signup(team: str = "team") -> Signup:
    unique = uuid4().hex[:8]
    return Signup(f"{unique}@example.com", f"{team}-{unique}")


def holds(office: Office, signup: Signup) -> list[str]:
    """What there is of a user."""
    found = {
        "account": ("SELECT 1 FROM accounts WHERE email = ?", signup.email),
        "workspace": ("SELECT 1 FROM workspaces WHERE team = ?", signup.team),
        "role": ("SELECT 1 FROM roles WHERE email = ?", signup.email),
    }
    with office._lock:
        return [name for name, (query, value) in found.items() if office._db.execute(query, (value,)).fetchone()]


def mails(office: Office, signup: Signup) -> int:
    return sum(signup.email in mail for mail in office.mails())


async def at(handle: Handle, step: str) -> Status:
    async def reached() -> Status | None:
        status = await handle.query(Onboarding.status)
        return status if status.step == step else None

    status: Status = await eventually(reached, step)
    return status


async def test_a_user_who_comes_is_onboarded(client: Client, office: Office) -> None:
    """The status names the step and what holds; after the sign-in a cancel is too late."""
    user = signup()
    handle = await start(client, user)
    status = await at(handle, "wait_for_verification")
    assert (status.state, status.completed) == (State.RUNNING, ["create_account", "send_verification"])
    await handle.signal(Onboarding.verified)
    await at(handle, "wait_for_sign_in")
    await handle.signal(Onboarding.signed_in)
    await handle.signal(Onboarding.cancel_signup)
    status = await handle.result()
    assert (status.state, len(status.completed)) == (State.ONBOARDED, 6)
    assert holds(office, user) == ["account", "workspace", "role"]
    assert mails(office, user) == 3


@pytest.mark.parametrize("wait", ["wait_for_verification", "wait_for_sign_in"])
@pytest.mark.parametrize("how", ["signal", "cancel"])
async def test_a_cancel_takes_away_what_was_created(client: Client, office: Office, wait: str, how: str) -> None:
    user = signup()
    handle = await start(client, user)
    if wait == "wait_for_sign_in":
        await handle.signal(Onboarding.verified)
    await at(handle, wait)
    if how == "signal":
        await handle.signal(Onboarding.cancel_signup)
        status = await handle.result()
        assert (status.state, set(status.completed) - {"send_welcome"}) == (State.CANCELLED, {"send_verification"})
    else:
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as error:
            await handle.result()
        assert isinstance(error.value.cause, CancelledError)
    assert holds(office, user) == []


async def test_a_taken_address_and_a_taken_team_are_refused(client: Client, office: Office) -> None:
    """What the other user has stays."""
    first = signup()
    handle = await start(client, first)
    await handle.signal(Onboarding.verified)
    await handle.signal(Onboarding.signed_in)
    await handle.result()
    assert (await (await start(client, Signup(first.email, "else"))).result()).state is State.REFUSED
    second = Signup(signup().email, first.team)
    handle = await start(client, second)
    await handle.signal(Onboarding.verified)
    assert (await handle.result()).state is State.REFUSED
    assert (holds(office, first), holds(office, second)) == (["account", "workspace", "role"], ["workspace"])


async def test_a_fault_for_good_fails_once_all_is_undone(client: Client, office: Office) -> None:
    user = signup("broken")
    handle = await start(client, user)
    await handle.signal(Onboarding.verified)
    with pytest.raises(WorkflowFailureError) as error:
        await handle.result()
    assert isinstance(error.value.cause, ActivityError)
    assert holds(office, user) == []


@pytest.mark.parametrize("verified", [False, True])
async def test_no_sign_in_within_a_week(virtual: tuple[Client, Office], verified: bool) -> None:
    client, office = virtual
    user = signup()
    handle = await client.start_workflow(
        Onboarding.run, user, id=user.email, task_queue=QUEUE, start_signal="verified" if verified else None
    )
    assert (await handle.result()).state is State.TIMED_OUT
    assert (holds(office, user), mails(office, user)) == ([], 2)  # with the reminder, or the welcome
    described = await handle.describe()
    assert described.close_time is not None
    lasted = described.close_time - described.start_time
    assert timedelta(days=7) <= lasted < timedelta(days=7, hours=1)
