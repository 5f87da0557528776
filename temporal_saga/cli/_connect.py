"""Connects as the `temporal` CLI does, and puts each problem with the server into one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, RPCStatusCode

__all__ = ["Connection", "Problem", "explained"]

_PATIENCE = 15.0


class Problem(Exception):
    """A problem, in one line for a person. It has no secrets and no data of the workflow."""


@dataclass(frozen=True)
class Connection:
    """The connection settings. A missing one comes from the environment, then from the configuration file.

    Attributes:
        profile: The profile in the configuration file.
        config_file: The configuration file.
        address: The server's address.
        namespace: The namespace.
        api_key: The API key.
        tls: Whether to use TLS.
    """

    profile: str | None = None
    config_file: str | None = None
    address: str | None = None
    namespace: str | None = None
    api_key: str | None = None
    tls: bool | None = None

    async def connect(self, identity: str | None = None) -> Client:
        """Connect.

        Args:
            identity: The person who acts, as the history will name them.

        Raises:
            Problem: If the connection fails.
        """
        try:
            loaded = ClientConfig.load_client_connect_config(profile=self.profile, config_file=self.config_file)
        except Exception as error:  # the message may quote the file
            where = self.config_file or "temporal.toml, or the environment (TEMPORAL_...)"
            raise Problem(f"the connection settings cannot be read: check the profile and the file: {where}") from error
        settings: dict[str, Any] = {"target_host": "localhost:7233", **loaded}
        given = {"target_host": self.address, "namespace": self.namespace, "api_key": self.api_key, "tls": self.tls}
        settings.update({name: value for name, value in given.items() if value is not None})
        if identity is not None:
            settings["identity"] = identity
        address = settings["target_host"]
        try:
            return await asyncio.wait_for(Client.connect(**settings), _PATIENCE)
        except (RuntimeError, ValueError, OSError, asyncio.TimeoutError) as error:
            raise Problem(f"no Temporal server answers at {address}: check the address and TLS") from error
        except RPCError as error:
            raise Problem(_reason(error, f"the server at {address}", settings.get("namespace", "default"))) from error


@asynccontextmanager
async def explained(client: Client, what: str) -> AsyncGenerator[None]:
    """Turn the errors of the server into problems.

    Args:
        client: The client.
        what: The subject of the request, such as "workflow 'order-1'".
    """
    try:
        yield
    except RPCError as error:
        raise Problem(_reason(error, what, client.namespace)) from error


def _reason(error: RPCError, what: str, namespace: str) -> str:
    """Say what an error means. The server's own words are not repeated, since they may quote the request."""
    status, message = error.status, error.message.lower()
    if status is RPCStatusCode.NOT_FOUND and "namespace" in message:
        return f"the server has no namespace {namespace!r}: give --namespace"
    if status is RPCStatusCode.NOT_FOUND:
        return f"{what} is not in namespace {namespace!r}: check the id; a closed workflow is deleted after a while"
    if status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return f"denied: these credentials may not do that in namespace {namespace!r}"
    if status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
        return f"no answer in time about {what}: try again"
    if status is RPCStatusCode.RESOURCE_EXHAUSTED:
        return "the server accepts no more requests now: try again later"
    if status is RPCStatusCode.UNIMPLEMENTED:
        return f"the server is too old, or is not a Temporal server: it cannot answer about {what}"
    if "paused" in message:
        return f"{what} is paused, and a paused workflow takes no queries and updates: unpause it first"
    if status is RPCStatusCode.INVALID_ARGUMENT:
        return f"the server does not understand the request about {what}: check the ids and the query"
    return f"the server refuses the request about {what} ({status.name})"
