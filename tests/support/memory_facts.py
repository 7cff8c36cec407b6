"""Facts in memory, which obey ``shards.facts``, and whose answers can be lost and delayed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from shards.contract import StoreError
from shards.facts import Fact, Facts, Guard

_T = TypeVar("_T")


class MemoryFacts(Facts):
    """Facts of one home, in memory.

    ``between`` is awaited before each call takes effect and again before it answers: a test may wait, raise, or change
    the world there.
    """

    tells_for_good = True

    def __init__(self, between: Callable[[str, bool], Awaitable[None]] | None = None) -> None:
        self.kept: dict[tuple[str, str], Fact] = {}
        self.between = between

    async def read(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.read``."""
        return await self._call("read", lambda: self.kept.get((scope, name)))

    async def glance(self, scope: str, name: str) -> Fact | None:
        """See ``Facts.glance``."""
        return await self._call("glance", lambda: self.kept.get((scope, name)))

    async def revision(self, scope: str, name: str) -> int:
        """See ``Facts.revision``."""
        return await self._call("revision", lambda: self._revision(scope, name))

    async def list(self, scope: str) -> Mapping[str, Fact]:
        """See ``Facts.list``."""
        return await self._call(
            "list", lambda: {name: fact for (kept_in, name), fact in self.kept.items() if kept_in == scope}
        )

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """See ``Facts.create``."""
        return await self._call("create", lambda: self.kept.setdefault((scope, name), fact))

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """See ``Facts.replace``."""
        return await self._call(
            "replace", lambda: self._revision(scope, name) == revision and self._put(scope, name, fact)
        )

    async def delete(self, scope: str, name: str, revision: int) -> bool:
        """See ``Facts.delete``."""

        def delete() -> bool:
            if self._revision(scope, name) == revision:
                del self.kept[scope, name]
            return (scope, name) not in self.kept

        return await self._call("delete", delete)

    async def grant(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.grant``."""
        return await self._call(
            "grant",
            lambda: (
                (scope, name) not in self.kept
                and self._revision(scope, guard.name) == guard.revision
                and self._put(scope, name, fact)
            ),
        )

    async def renew(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """See ``Facts.renew``."""
        return await self._call(
            "renew",
            lambda: (
                0 < self._revision(scope, name) < fact.revision
                and self._revision(scope, guard.name) == guard.revision
                and self._put(scope, name, fact)
            ),
        )

    async def tell(self, scope: str, name: str, fact: Fact) -> None:
        """See ``Facts.tell``."""
        await self._call("tell", lambda: self._revision(scope, name) < fact.revision and self._put(scope, name, fact))

    async def close(self) -> None:
        """Nothing to do."""

    def _revision(self, scope: str, name: str) -> int:
        fact = self.kept.get((scope, name))
        return 0 if fact is None else fact.revision

    def _put(self, scope: str, name: str, fact: Fact) -> bool:
        self.kept[scope, name] = fact
        return True

    async def _call(self, operation: str, effect: Callable[[], _T]) -> _T:
        await asyncio.sleep(0)
        if self.between is not None:
            await self.between(operation, False)
        answer = effect()
        if self.between is not None:
            await self.between(operation, True)
        return answer


class FactsLost(StoreError):
    """A test lost a call, or its answer."""
