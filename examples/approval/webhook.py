"""The webhook that finance's system calls. It completes the activity that has left its completion to it."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from .activities import Desk
from .models import Answer


def webhook(client: Client, desk: Desk) -> Starlette:
    """An app with one route: `POST /tickets/ID` with `{"approved": true, "by": "eve"}`."""

    async def answer(request: Request) -> JSONResponse:
        try:
            body = await request.json()
            approved, by = body["approved"], body["by"]
        except (ValueError, TypeError, KeyError):
            approved, by = None, None
        if not isinstance(approved, bool) or not isinstance(by, str):
            return JSONResponse({"error": 'expected {"approved": true or false, "by": "a name"}'}, 400)
        status, says = await deliver(client, desk, request.path_params["ticket"], Answer(approved, by))
        return JSONResponse({"result": says}, status)

    return Starlette(routes=[Route("/tickets/{ticket}", answer, methods=["POST"])])


async def deliver(client: Client, desk: Desk, ticket: str, answer: Answer) -> tuple[int, str]:
    """Writes the answer down, then completes the activity with it. Returns an HTTP status, and what it means.

    In this order no answer is lost: if nobody can take it now, the next attempt of the activity finds it in the ticket.
    """
    try:
        state, token = await asyncio.to_thread(desk.record, ticket, answer)
    except LookupError:
        return 404, "this ticket does not exist"
    if state == "withdrawn":
        return 410, "the ticket was withdrawn"
    if state != ("approved" if answer.approved else "rejected"):
        return 409, f"the ticket was {state} before"
    if token is None:
        return 202, f"{state}, written down"
    try:
        await client.get_async_activity_handle(task_token=token).complete(answer)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        # Completed before, or between two attempts, or nobody waits any more.
        return 202, f"{state}, written down"
    return 200, state
