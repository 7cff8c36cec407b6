"""The control file: facts about the data directory, and the topology, changed by compare-and-set on its epoch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import apsw

from shards.contract import Corrupt, Unavailable
from shards.stores.embedded.errors import store_error
from shards.stores.embedded.files import Kind, open_file
from shards.topology import Topology, TopologyDamaged, TopologyStore

T = TypeVar("T")

_LOAD: Final = "SELECT topology FROM topology"
_CREATE: Final = "INSERT INTO topology VALUES (1, ?, ?) ON CONFLICT DO NOTHING"
_COMPARE_AND_SET: Final = "UPDATE topology SET epoch = ?, topology = ? WHERE epoch = ?"


class EmbeddedTopologyStore(TopologyStore):
    """The topology in the control file of a data directory, shared by all its processes. Open it with ``open``."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        """Takes over the connection; ``open`` is the way to get here."""
        self._path: Final = path
        self._connection: Final = connection
        self._one_at_a_time: Final = threading.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> EmbeddedTopologyStore:
        """Opens the control file that ``prepare`` has made. Raises ``DataDirError``, a ``StoreError``."""
        return cls(path, await asyncio.to_thread(open_file, path, Kind.CONTROL))

    def __repr__(self) -> str:
        return f"<EmbeddedTopologyStore {self._path}>"

    async def load(self) -> Topology | None:
        """See ``TopologyStore.load``."""
        return await self._on_thread(self._load)

    async def create(self, topology: Topology) -> Topology:
        """See ``TopologyStore.create``."""

        def create() -> Topology:
            self._connection.execute(_CREATE, (topology.epoch, topology.to_bytes()))
            return self._load() or topology  # a topology is never taken away

        return await self._on_thread(create)

    async def compare_and_set(self, epoch: int, topology: Topology) -> bool:
        """See ``TopologyStore.compare_and_set``."""
        if topology.epoch != epoch + 1:
            raise ValueError(f"epoch {topology.epoch} does not follow {epoch}")

        def compare_and_set() -> bool:
            self._connection.execute(_COMPARE_AND_SET, (topology.epoch, topology.to_bytes(), epoch))
            return self._connection.changes() == 1

        return await self._on_thread(compare_and_set)

    async def close(self) -> None:
        """Lets go of the file. Idempotent."""

        def close() -> None:
            with self._one_at_a_time:
                self._closed = True
                self._connection.close()

        await asyncio.to_thread(close)

    def _load(self) -> Topology | None:
        return load_topology(self._connection, self._path)

    async def _on_thread(self, function: Callable[[], T]) -> T:
        def call() -> T:
            with self._one_at_a_time:
                if self._closed:
                    raise Unavailable(f"{self._path.name}: the store is closed")
                try:
                    return function()
                except apsw.Error as error:
                    raise store_error(error, self._path) from error

        return await asyncio.to_thread(call)


def load_topology(connection: apsw.Connection, path: Path) -> Topology | None:
    """Returns the topology in a control file. Raises ``Corrupt`` when it is damaged, and ``apsw.Error``."""
    row = connection.execute(_LOAD).fetchone()
    if row is None:
        return None
    try:
        return Topology.from_bytes(row[0])
    except TopologyDamaged as error:
        raise Corrupt(f"{path.name}: {error}") from error
