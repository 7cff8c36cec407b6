"""Small facts kept in a keyspace: compare-and-set on a revision, read linearizably."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple, cast

from shards.contract import Corrupt, StoreError
from shards.stores.cassandra.session import Kind, Session, Step
from shards.stores.cassandra.statements import Statements

_TRIES_MAX: Final = 3
"""A conditional write of unknown outcome is looked at and, when it is not there, made again, so often in all."""

_PAUSE_S: Final = 0.2


class Fact(NamedTuple):
    """One fact."""

    revision: int
    value: bytes


class Control:
    """The control table of one keyspace."""

    def __init__(self, session: Session, statements: Statements) -> None:
        self._session = session
        self._statements = statements

    async def read(self, scope: str, name: str) -> Fact | None:
        """Returns a fact, linearizable with changes. Raises ``StoreError``."""
        return await self._read(scope, name, Kind.SERIAL_READ)

    async def glance(self, scope: str, name: str) -> Fact | None:
        """Returns a fact as a quorum has it, or a later one: every change acknowledged before is in it."""
        return await self._read(scope, name, Kind.READ)

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """Stores a fact unless there is one, and returns the one that is there then. Idempotent."""
        step = Step(self._statements.control_create, (scope, name, fact.revision, fact.value))
        return fact if await self._write(scope, name, step, fact) else await self._present(scope, name)

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """Replaces the fact of a revision by one of a higher one; False when another is there.

        Each try whose outcome is unknown is followed by another; when that finds this very fact, it was ours.
        """
        step = Step(self._statements.control_replace, (fact.revision, fact.value, scope, name, revision))
        return await self._write(scope, name, step, fact)

    async def _write(self, scope: str, name: str, step: Step, fact: Fact) -> bool:
        tries = 1
        while True:
            try:
                if await self._session.batch((step,)) is None:
                    return True
            except StoreError:
                if tries == _TRIES_MAX:
                    raise
                tries += 1
                await asyncio.sleep(_PAUSE_S)
            else:
                return tries > 1 and await self.read(scope, name) == fact

    async def _present(self, scope: str, name: str) -> Fact:
        fact = await self.read(scope, name)
        if fact is None:
            raise Corrupt(f"control {scope}/{name} was there and is gone")
        return fact

    async def _read(self, scope: str, name: str, kind: Kind) -> Fact | None:
        rows = await self._session.execute(self._statements.control_read, (scope, name), kind)
        if not rows:
            return None
        revision, value = rows[0]
        return Fact(cast("int", revision), cast("bytes", value))
