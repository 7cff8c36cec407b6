"""The control table of a keyspace: facts, one partition a scope."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

from shards.contract import StoreError
from shards.facts import LISTED_MAX, Fact, Facts, Guard
from shards.stores.cassandra.session import Kind, Session, Step
from shards.stores.cassandra.statements import Statements

_TRIES_MAX: Final = 3
"""A conditional write of unknown outcome is looked at and, when it is not there, made again, so often in all."""

_PAUSE_S: Final = 0.2


class Control(Facts):
    """The control table of one keyspace, over a session that others close."""

    tells_for_good = True

    def __init__(self, session: Session, statements: Statements) -> None:
        self._session = session
        self._statements = statements
        self._told_us = 0  # timestamp of what was told last

    async def read(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.read``: a round of Paxos."""
        return await self._read(scope, name, Kind.SERIAL_READ)

    async def glance(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.glance``: as a quorum has it."""
        return await self._read(scope, name, Kind.READ)

    async def revision(self, scope: str, name: str) -> int:
        """See ``Facts.revision``."""
        rows = await self._session.execute(self._statements.control_revision, (scope, name), Kind.READ)
        return cast("int", rows[0][0]) if rows else 0

    async def list(self, scope: str) -> Mapping[str, Fact]:
        """See ``Facts.list``. Changes of a scope meet in one partition: a later one first finishes those before it."""
        rows = await self._session.execute(self._statements.control_list, (scope, LISTED_MAX), Kind.READ)
        return {
            cast("str", name): Fact(cast("int", revision), cast("bytes", value) or b"")
            for name, revision, value in rows
        }

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """See ``Facts.create``."""
        step = Step(self._statements.control_create, (scope, name, fact.revision, fact.value))

        async def is_ours() -> bool:
            return await self.read(scope, name) == fact

        for _ in range(_TRIES_MAX):
            if await self._write(step, is_ours):
                return fact
            if present := await self.read(scope, name):
                return present
        raise StoreError(f"control {scope}/{name} comes and goes")

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """See ``Facts.replace``."""
        step = Step(self._statements.control_replace, (fact.revision, fact.value, scope, name, revision))

        async def is_ours() -> bool:
            return await self.read(scope, name) == fact

        return await self._write(step, is_ours)

    async def delete(self, scope: str, name: str, revision: int) -> bool:
        """See ``Facts.delete``."""
        step = Step(self._statements.control_delete, (scope, name, revision))

        async def is_gone() -> bool:
            return await self.read(scope, name) is None

        return await self._write(step, is_gone) or await is_gone()

    async def grant(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.grant``: one conditional batch."""
        step = Step(self._statements.control_create, (scope, name, fact.revision, fact.value))
        return await self._session.batch((step, self._guarding(scope, guard))) is None

    async def renew(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.renew``: one conditional batch."""
        step = Step(self._statements.control_raise, (fact.revision, fact.value, scope, name, fact.revision))
        return await self._session.batch((step, self._guarding(scope, guard))) is None

    async def tell(self, scope: str, name: str, fact: Fact) -> None:
        """See ``Facts.tell``: one plain write, of which the store keeps the latest by its timestamp.

        No row is told and changed by conditions, but for being deleted, which is once and for all.
        """
        self._told_us = max(self._told_us + 1, time.time_ns() // 1_000)  # rises, also when the clock is set back
        values = (scope, name, fact.revision, fact.value, self._told_us)
        await self._session.execute(self._statements.control_tell, values, Kind.WRITE)

    async def close(self) -> None:
        """Does nothing: the session is closed by whoever opened it."""

    def _guarding(self, scope: str, guard: Guard) -> Step:
        """Writes the revision that is there once more: a condition needs a statement, and this one leaves no trace."""
        return Step(self._statements.control_guard, (guard.revision, scope, guard.name, guard.revision))

    async def _write(self, step: Step, is_done: Callable[[], Awaitable[bool]]) -> bool:
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
                # refused after a try of unknown outcome: by that very try, perhaps
                return tries > 1 and await is_done()

    async def _read(self, scope: str, name: str, kind: Kind) -> Fact | None:
        rows = await self._session.execute(self._statements.control_read, (scope, name), kind)
        if not rows:
            return None
        revision, value = rows[0]
        return Fact(cast("int", revision), cast("bytes", value) or b"")
