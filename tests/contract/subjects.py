"""The stores and wrappers that the contract suite holds to the law, and how each is opened.

A truth is what outlives its faces: files, a cluster, memory. Every face of one truth is a ``Store`` as one process
would have it. A new store joins the suite by one more ``Truth`` in ``SUBJECTS``.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from shards.caches.local import LocalCache
from shards.contract import Copies, Store
from shards.stores.cassandra import CassandraCopies, CassandraStore
from shards.stores.embedded import EmbeddedCopies, EmbeddedStore, prepare, shard_path
from shards.wrappers.bounded import BoundedStore
from shards.wrappers.cached import CachedStore
from shards.wrappers.observed import ObservedStore
from tests.support.cassandra_node import make_empty, node_settings
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes


class Truth(Protocol):
    """One shard, empty at first."""

    async def face(self) -> Store:
        """Another store upon the same truth, to be closed by ``close``."""

    async def close(self) -> None:
        """Closes all faces and clears the truth away."""


class Shard(Truth, Protocol):
    """A truth that movers can copy from and to."""

    async def copies(self) -> Copies:
        """What a mover sees of it, to be closed by ``close``."""


class EmbeddedTruth:
    """A data directory with one shard."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="crest-contract-"))
        self._faces: list[Store | Copies] = []
        os.close(prepare(self._directory, 1))

    async def face(self) -> Store:
        """A store with connections of its own, as another process would have."""
        store = await EmbeddedStore.open(shard_path(self._directory, 0))
        self._faces.append(store)
        return store

    async def copies(self) -> Copies:
        """The file as a mover has it."""
        copies = await EmbeddedCopies.open(shard_path(self._directory, 0))
        self._faces.append(copies)
        return copies

    async def close(self) -> None:
        """Closes the files and removes them."""
        await asyncio.gather(*(face.close() for face in self._faces))
        shutil.rmtree(self._directory)


class WrappedTruth(EmbeddedTruth):
    """A data directory seen through every wrapper, as a server's workers see it."""

    async def face(self) -> Store:
        """A store with cache, observer and bounds of its own."""
        observer = Notes()
        observed = ObservedStore(await super().face(), shard=0, observer=observer)
        cache = LocalCache(rows_max=1_000, bytes_max=1 << 20, ttl_s=60.0)
        return BoundedStore(CachedStore(observed, cache, observer), reads_max=10_000)


class MemoryTruth:
    """The memory store that other suites build upon: it must keep the law that they rely on."""

    def __init__(self) -> None:
        self._store = MemoryStore()

    async def face(self) -> Store:
        """The one store there is."""
        return self._store

    async def close(self) -> None:
        """Nothing to do."""


class CassandraTruth:
    """A keyspace of a Cassandra node, spoken to through one of the drivers."""

    def __init__(self, driver: str, lanes: int) -> None:
        self._settings = node_settings(driver, f"crest_test_{lanes}", lanes)
        self._faces: list[Store | Copies] = []

    async def face(self) -> Store:
        """A store with a session of its own, as another process would have."""
        if not self._faces:
            await make_empty(self._settings)
        store = await CassandraStore.open(self._settings, is_indexing=False)
        self._faces.append(store)
        return store

    async def copies(self) -> Copies:
        """The keyspace as a mover has it."""
        copies = await CassandraCopies.open(self._settings)
        self._faces.append(copies)
        return copies

    async def close(self) -> None:
        """Disconnects; the keyspace is emptied by whoever takes it next."""
        await asyncio.gather(*(face.close() for face in self._faces))


SUBJECTS: Final[dict[str, Callable[[], Truth]]] = {
    "cassandra-acsylla": partial(CassandraTruth, "acsylla", 1),
    "cassandra-acsylla-lanes": partial(CassandraTruth, "acsylla", 3),
    "cassandra-driver": partial(CassandraTruth, "cassandra-driver", 1),
    "embedded": EmbeddedTruth,
    "embedded-wrapped": WrappedTruth,
    "memory": MemoryTruth,
}

SHARDS: Final[dict[str, Callable[[], Shard]]] = {
    "cassandra-acsylla": partial(CassandraTruth, "acsylla", 1),
    "cassandra-acsylla-lanes": partial(CassandraTruth, "acsylla", 3),
    "cassandra-driver": partial(CassandraTruth, "cassandra-driver", 1),
    "embedded": EmbeddedTruth,
}
