"""Shards as movers have them, for tests."""

import asyncio
from pathlib import Path

from shards.facts import Facts
from shards.rebalance.fleet import Fleet, Part
from shards.stores.embedded import EmbeddedCopies, EmbeddedFacts, add_shard, control_path, shard_path


class EmbeddedFleet(Fleet):
    """A data directory. Open it with ``open``."""

    def __init__(self, data_dir: Path, facts: EmbeddedFacts) -> None:
        self.data_dir = data_dir
        self._facts = facts
        self._parts: dict[int, Part] = {}

    @classmethod
    async def open(cls, data_dir: Path) -> "EmbeddedFleet":
        """Opens a directory that ``prepare`` has made."""
        return cls(data_dir, await EmbeddedFacts.open(control_path(data_dir)))

    @property
    def home(self) -> Facts:
        """See ``Fleet.home``."""
        return self._facts

    async def part(self, shard: int) -> Part:
        """See ``Fleet.part``."""
        if shard not in self._parts:
            copies = await EmbeddedCopies.open(shard_path(self.data_dir, shard))
            self._parts[shard] = Part(self._facts.of_shard(shard), copies)
        return self._parts[shard]

    async def prepare(self, shard: int) -> None:
        """See ``Fleet.prepare``."""
        await asyncio.to_thread(add_shard, self.data_dir, shard)

    async def close(self) -> None:
        """See ``Fleet.close``."""
        for part in self._parts.values():
            await part.copies.close()
        await self._facts.close()
