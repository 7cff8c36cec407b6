"""Opens shards for movers.

Movers see the bare stores, with no cache and no lane between.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from shards.assembly.storage import StorageRefused, StorageSettings, load_file
from shards.assembly.workers import next_homes
from shards.contract import Copies
from shards.facts import Facts
from shards.homes import FollowedHome
from shards.settings import TopologyFile
from shards.stores.cassandra import CassandraCopies, CassandraFacts
from shards.stores.embedded import EmbeddedCopies, EmbeddedFacts, add_shard, admit, control_path, shard_path

_CONNECT_WAIT_S: Final = 10.0


class EmbeddedFleet:
    """The files of a data directory, which may be served meanwhile. Obeys ``shards.rebalance.fleet.Fleet``."""

    def __init__(self, data_dir: Path, facts: EmbeddedFacts, lock: int) -> None:
        """Takes over the facts and the lock; ``open`` is the way to get here."""
        self._data_dir: Final = data_dir
        self._lock = lock
        self._facts: Final = facts
        self._home: Final = FollowedHome(facts, _nowhere)
        self._copies: Final[dict[int, EmbeddedCopies]] = {}
        self._opening: Final = asyncio.Lock()

    @classmethod
    async def open(cls, data_dir: Path) -> EmbeddedFleet:
        """Opens the control file, and each shard when it is asked for. Raises ``StoreError``."""
        lock = await asyncio.to_thread(admit, data_dir)
        try:
            return cls(data_dir, await EmbeddedFacts.open(control_path(data_dir)), lock)
        except BaseException:
            os.close(lock)
            raise

    def __repr__(self) -> str:
        return f"<EmbeddedFleet {self._data_dir} shards={sorted(self._copies)}>"

    @property
    def home(self) -> Facts:
        """The facts where the topology is kept."""
        return self._home

    @property
    def own_home(self) -> Facts:
        """The facts of the directory."""
        return self._facts

    async def part(self, shard: int) -> tuple[Facts, Copies]:
        """Opens a shard's file when it is first asked for."""
        async with self._opening:
            if shard not in self._copies:
                self._copies[shard] = await EmbeddedCopies.open(shard_path(self._data_dir, shard))
        return self._facts.of_shard(shard), self._copies[shard]

    async def prepare(self, shard: int) -> None:
        """Makes the file of a new shard."""
        await asyncio.to_thread(add_shard, self._data_dir, shard)

    async def close(self) -> None:
        """Closes every file. Idempotent."""
        for copies in self._copies.values():
            await copies.close()
        await self._home.close()
        await self._facts.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class FileFleet:
    """The shards that a topology file names. It is read again for one that it did not name when it was opened."""

    def __init__(
        self, path: Path, file: TopologyFile, clustered_home: CassandraFacts | None, embedded: EmbeddedFleet | None
    ) -> None:
        """Takes over what is open; ``open`` is the way to get here."""
        self._path: Final = path
        self._file = file
        self._clustered_home: Final = clustered_home
        self._embedded: Final = embedded
        first = clustered_home or (None if embedded is None else embedded.own_home)
        assert first is not None, "a topology file without clusters names a data directory"
        self._home: Final = FollowedHome(first, lambda: next_homes(path))
        self._copies: Final[dict[int, CassandraCopies]] = {}
        self._opening: Final = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path) -> FileFleet:
        """Opens where the topology is kept, and each shard when it is asked for. Raises ``StoreError``."""
        file = load_file(path)
        embedded = None if file.embedded is None else await EmbeddedFleet.open(file.embedded.data_dir)
        home = None
        try:
            if file.topology is not None:
                home = await CassandraFacts.open(file.topology, "topology", wait_s=_CONNECT_WAIT_S)
        except BaseException:
            if embedded is not None:
                await embedded.close()
            raise
        return cls(path, file, home, embedded)

    def __repr__(self) -> str:
        return f"<FileFleet {self._path} shards={sorted(self._copies)} beside {self._embedded!r}>"

    @property
    def home(self) -> Facts:
        """The facts where the topology is kept."""
        return self._home

    async def part(self, shard: int) -> tuple[Facts, Copies]:
        """Connects to a shard, or opens its file, when it is first asked for."""
        if self._embedded is not None and self._is_embedded(shard):
            return await self._embedded.part(shard)
        async with self._opening:
            if shard not in self._copies:
                await self.prepare(shard)
                self._copies[shard] = await CassandraCopies.open(
                    self._file.shards[shard], name=f"shard {shard}", wait_s=_CONNECT_WAIT_S
                )
        return self._copies[shard].facts, self._copies[shard]

    async def prepare(self, shard: int) -> None:
        """Makes sure that the file names the shard: its keyspace is made by ``python -m shards.schema``."""
        if shard not in self._file.ids:
            self._file = await asyncio.to_thread(load_file, self._path)
        if self._is_embedded(shard):
            if self._embedded is None:
                raise StorageRefused(f"{self._path} names a data directory since this mover was started: start it anew")
            await self._embedded.prepare(shard)
        elif shard not in self._file.shards:
            raise StorageRefused(f"{self._path} does not name shard {shard}")

    async def close(self) -> None:
        """Disconnects, and closes every file. Idempotent."""
        for copies in self._copies.values():
            await copies.close()
        await self._home.close()
        if self._clustered_home is not None:
            await self._clustered_home.close()
        if self._embedded is not None:
            await self._embedded.close()

    def _is_embedded(self, shard: int) -> bool:
        return self._file.embedded is not None and shard in self._file.embedded.shards


async def open_next_home(path: Path) -> tuple[Facts, str]:
    """Opens where the topology file says that the topology is to be moved, and says where that is, for people.

    Raises ``StoreError``.
    """
    file = await asyncio.to_thread(load_file, path)
    if file.next is None:
        raise StorageRefused(f"{path} does not say where to: name the new home as [topology.next]")
    facts = await CassandraFacts.open(file.next, "next topology", wait_s=_CONNECT_WAIT_S)
    points = ", ".join(f"{point}:{file.next.port}" for point in file.next.contact_points)
    return facts, f"keyspace {file.next.keyspace} at {points}"


async def _nowhere() -> list[Facts]:
    return []


async def open_fleet(settings: StorageSettings) -> EmbeddedFleet | FileFleet:
    """Opens where the topology is kept, and each shard when it is asked for. Raises ``StoreError``."""
    if settings.store == "embedded":
        return await EmbeddedFleet.open(settings.data_dir)
    return await FileFleet.open(Path(settings.topology_file))
