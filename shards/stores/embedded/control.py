"""The control file: facts about the data directory, and the facts that its processes agree by.

One thread and two connections a process. What ``create`` and ``replace`` change is synced to the disk; grants and
renewals are not: they are seen by every process as soon as they return, and when the machine loses power all who hold
leases are gone with them. So a renewal takes microseconds and waits for no disk, however busy the shards' files are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

import apsw

from shards.contract import Corrupt
from shards.facts import LISTED_MAX, Fact, Facts, Guard
from shards.stores.embedded.errors import VALUE_ERRORS, data_dir_error, invalid, store_error
from shards.stores.embedded.files import Kind, open_file
from shards.stores.embedded.threads import ConnectionThread, Job

T = TypeVar("T")

_CALLS_MAX: Final = 1_024
"""Calls waiting for the thread: a poll or two a shard, and what movers ask."""

_POLL_S: Final = 0.0005
_POLLS_MAX: Final = 10_000
"""Tries (5 s and more) for the lock of the file, which others hold for one commit."""

_READ: Final = "SELECT revision, value FROM facts WHERE scope = ? AND name = ?"
_REVISION: Final = "SELECT revision FROM facts WHERE scope = ? AND name = ?"
_LIST: Final = "SELECT name, revision, value FROM facts WHERE scope = ? ORDER BY name LIMIT ?"
_CREATE: Final = "INSERT INTO facts (scope, name, revision, value) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_REPLACE: Final = "UPDATE facts SET revision = ?, value = ? WHERE scope = ? AND name = ? AND revision = ?"
_DELETE: Final = "DELETE FROM facts WHERE scope = ? AND name = ? AND revision = ?"
_GRANT: Final = """
    INSERT INTO facts (scope, name, revision, value) SELECT ?1, ?2, ?3, ?4
    WHERE EXISTS (SELECT 1 FROM facts WHERE scope = ?1 AND name = ?5 AND revision = ?6) ON CONFLICT DO NOTHING"""
_RENEW: Final = """
    UPDATE facts SET revision = ?3, value = ?4 WHERE scope = ?1 AND name = ?2 AND revision < ?3
    AND EXISTS (SELECT 1 FROM facts WHERE scope = ?1 AND name = ?5 AND revision = ?6)"""
_TELL: Final = """
    INSERT INTO facts (scope, name, revision, value) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET revision = excluded.revision, value = excluded.value WHERE revision < excluded.revision"""

_Question: TypeAlias = Callable[["_Connections"], Any]


class _Connections:
    """The two connections to a control file. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.synced: Final = open_file(path, Kind.CONTROL)
        try:
            self.quick: Final = open_file(path, Kind.CONTROL)
            try:
                self.quick.pragma("synchronous", "NORMAL")
            except apsw.Error as error:
                raise data_dir_error(error, path) from error
        except BaseException:
            self.synced.close()
            raise
        for connection in (self.synced, self.quick):
            connection.set_busy_handler(_wait_for_lock)

    def work(self, jobs: Sequence[Job[_Question, Any]]) -> None:
        """Answers each job in turn."""
        for job in jobs:
            try:
                job.answer = job.question(self)
            except apsw.Error as error:
                job.error = store_error(error, self.path)
                job.error.__cause__ = error
            except VALUE_ERRORS as error:
                job.error = invalid(error, self.path)
                job.error.__cause__ = error

    def close(self) -> None:
        """Lets go of the file."""
        self.quick.close()
        self.synced.close()


class EmbeddedFacts(Facts):
    """The facts in the control file of a data directory, shared by all its processes. Open it with ``open``."""

    def __init__(self, path: Path, thread: ConnectionThread[_Question, Any], prefix: str = "") -> None:
        """``open`` is the way to get here."""
        self._path = path
        self._thread = thread
        self._prefix = prefix

    @classmethod
    async def open(cls, path: Path) -> EmbeddedFacts:
        """Opens the control file that ``prepare`` has made. Raises ``DataDirError``, a ``StoreError``."""
        connections = await asyncio.to_thread(_Connections, path)
        return cls(path, ConnectionThread(path.name, connections.work, connections.close, jobs_max=_CALLS_MAX))

    def __repr__(self) -> str:
        return f"<EmbeddedFacts {self._path} {self._prefix}waiting={self._thread.jobs_waiting}>"

    def of_shard(self, shard: int) -> EmbeddedFacts:
        """Returns the facts of one shard, over the same thread; closing either closes both."""
        return EmbeddedFacts(self._path, self._thread, f"shard-{shard}/")

    async def read(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.read``."""
        return await self._ask(lambda file: _read(file, self._prefix + scope, name))

    async def glance(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.glance``: as a read, which costs no more."""
        return await self.read(scope, name)

    async def revision(self, scope: str, name: str) -> int:
        """See ``Facts.revision``."""
        return await self._ask(lambda file: int(file.quick.execute(_REVISION, (self._prefix + scope, name)).get or 0))

    async def list(self, scope: str) -> Mapping[str, Fact]:
        """See ``Facts.list``."""

        def listed(file: _Connections) -> Mapping[str, Fact]:
            rows = file.quick.execute(_LIST, (self._prefix + scope, LISTED_MAX))
            return {name: Fact(revision, value) for name, revision, value in rows}

        return await self._ask(listed)

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """See ``Facts.create``."""

        def create(file: _Connections) -> Fact:
            with file.synced:
                file.synced.execute(_CREATE, (self._prefix + scope, name, *fact))
                present = _read(file, self._prefix + scope, name)
            if present is None:
                raise Corrupt(f"{file.path.name}: {scope}/{name} was not stored")
            return present

        return await self._ask(create)

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """See ``Facts.replace``."""
        return await self._change("synced", _REPLACE, (*fact, self._prefix + scope, name, revision))

    async def delete(self, scope: str, name: str, revision: int) -> bool:
        """See ``Facts.delete``."""

        def delete(file: _Connections) -> bool:
            with file.synced:
                file.synced.execute(_DELETE, (self._prefix + scope, name, revision))
                present = _read(file, self._prefix + scope, name)
            return present is None

        return await self._ask(delete)

    async def grant(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.grant``."""
        return await self._change("quick", _GRANT, (self._prefix + scope, name, *fact, *guard))

    async def renew(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.renew``."""
        return await self._change("quick", _RENEW, (self._prefix + scope, name, *fact, *guard))

    async def tell(self, scope: str, name: str, fact: Fact) -> None:
        """See ``Facts.tell``."""
        await self._change("quick", _TELL, (self._prefix + scope, name, *fact))

    async def close(self) -> None:
        """See ``Facts.close``."""
        await self._thread.close()

    async def _change(self, connection: str, statement: str, values: Sequence[str | int | bytes]) -> bool:
        def change(file: _Connections) -> bool:
            chosen = file.synced if connection == "synced" else file.quick
            chosen.execute(statement, values)
            return chosen.changes() == 1

        return await self._ask(change)

    async def _ask(self, question: Callable[[_Connections], T]) -> T:
        return cast("T", await self._thread.ask(question))


def _read(file: _Connections, scope: str, name: str) -> Fact | None:
    connection = file.synced if file.synced.in_transaction else file.quick
    row = connection.execute(_READ, (scope, name)).fetchone()
    return None if row is None else Fact(*row)


def _wait_for_lock(polls: int) -> bool:
    time.sleep(_POLL_S)
    return polls < _POLLS_MAX
