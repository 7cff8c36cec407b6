"""A connection to one keyspace that comes about when the cluster does.

A worker starts while some of its shards are down. Connecting goes on in the background, and until it has succeeded
every call of the shard fails with ``Unavailable``. Once connected, the driver itself reconnects.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from shards.contract import Invalid, StoreError, Unavailable
from shards.settings import CassandraSettings
from shards.stores.cassandra import checks, facts
from shards.stores.cassandra.control import Control
from shards.stores.cassandra.facts import ShardFacts, ShardMismatch
from shards.stores.cassandra.session import Session
from shards.stores.cassandra.statements import Statements, prepare

_PAUSE_S_MIN: Final = 0.5
_PAUSE_S_MAX: Final = 1.0  # a shard that was away when the worker started serves so soon after its nodes
_JITTER: Final = 0.2

_FIRST_TRY_S: Final = 20.0
"""Longest that opening waits for its first try to end, however short the patience: a node that is slow to answer, as
after its start or on a busy machine, is not away. One that is away refuses at once, or does not take the connection
within two seconds."""

_log = logging.getLogger("crest.cassandra")


class Link(NamedTuple):
    """What a connected keyspace offers."""

    session: Session
    statements: Statements
    facts: ShardFacts
    findings: checks.Findings
    control: Control


class Connection:
    """Connects once, in the background, and hands out the link. For one event loop."""

    def __init__(self, settings: CassandraSettings, name: str, *, warns: bool = True) -> None:
        """``name`` is how the log calls it, as ``shard 3``; ``warns``: it tells the log what it finds of the nodes."""
        self._warns = warns
        self._settings = settings
        self._name = name
        self._link: Link | None = None
        self._why_not = "not connected yet"
        self._connecting: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._failed = asyncio.Event()
        """The first try has ended, without a link."""

    def __repr__(self) -> str:
        state = repr(self._link.session) if self._link else self._why_not
        return f"<Connection {self._name} keyspace={self._settings.keyspace} {state}>"

    @classmethod
    async def opened(cls, settings: CassandraSettings, name: str, wait_s: float, *, warns: bool = True) -> Connection:
        """Returns a connection after ``open``; one that could not be opened is closed."""
        connection = cls(settings, name, warns=warns)
        try:
            await connection.open(wait_s)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def open(self, wait_s: float) -> None:
        """Connects, and returns when that is done, or after ``wait_s`` seconds; but lets the first try end.

        Raises ``ShardMismatch`` when the cluster is there and is not what the settings say.
        """
        self._connecting = asyncio.get_running_loop().create_task(self._connect())
        await asyncio.wait((self._connecting,), timeout=wait_s)
        if not self._connecting.done():
            failed = asyncio.ensure_future(self._failed.wait())
            ends = (self._connecting, failed)
            await asyncio.wait(ends, timeout=max(0.0, _FIRST_TRY_S - wait_s), return_when=asyncio.FIRST_COMPLETED)
            failed.cancel()
        if self._connecting.done():
            self._connecting.result()
        if self._link is None:
            _log.warning("%s: %s; it is tried again until it is there", self._name, self._why_not)

    def link(self) -> Link:
        """Returns the link. Raises ``Unavailable`` where there is none."""
        if self._link is None or self._closing.is_set():
            raise Unavailable(f"{self._name}: {'closed' if self._closing.is_set() else self._why_not}")
        return self._link

    async def close(self) -> None:
        """Disconnects when what is under way has ended. Idempotent."""
        self._closing.set()
        if self._connecting is not None:
            # not cancelled: a driver that is stopped while it connects may crash the process
            await asyncio.wait((self._connecting,))
        if self._link is not None:
            await self._link.session.close()

    async def _connect(self) -> None:
        pause_s = _PAUSE_S_MIN
        is_first = True
        while not self._closing.is_set():
            try:
                self._link = await self._try()
            except ShardMismatch as error:
                if is_first:
                    raise
                _log.error("%s: %s", self._name, error)
                self._why_not = str(error)
            except StoreError as error:
                self._why_not = f"{type(error).__name__}: {error}"
            else:
                for warning in self._link.findings.warnings if self._warns else ():
                    _log.warning("%s: %s", self._name, warning)
                return
            is_first = False
            self._failed.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)):  # noqa: S311  no secret
                    await self._closing.wait()
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)

    async def _try(self) -> Link:
        settings = self._settings
        try:
            session = await opener(settings)(settings)
        except Invalid as error:
            raise facts.no_schema(settings) from error
        try:
            try:
                statements = await prepare(session, settings.keyspace)
            except Invalid as error:
                raise facts.no_schema(settings) from error
            control = Control(session, statements)
            found = facts.check(await facts.read(control), settings)
            findings = await checks.inspect(session, settings)
        except BaseException:
            await asyncio.shield(session.close())
            raise
        return Link(session, statements, found, findings, control)


def opener(settings: CassandraSettings) -> Callable[[CassandraSettings], Awaitable[Session]]:
    """Returns what opens a session of the driver that the settings name. Imported late: each brings a library."""
    if settings.driver == "acsylla":
        from shards.stores.cassandra.acsylla_session import AcsyllaSession  # noqa: PLC0415  not unless it is used

        return AcsyllaSession.open
    from shards.stores.cassandra.driver_session import DriverSession  # noqa: PLC0415  not unless it is used

    return DriverSession.open
