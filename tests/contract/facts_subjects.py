"""The implementations of facts that the suite holds to their law."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from shards.facts import Facts
from shards.stores.cassandra import CassandraFacts
from shards.stores.embedded import EmbeddedFacts, control_path, prepare
from tests.support.cassandra_node import make_empty, node_settings
from tests.support.memory_facts import MemoryFacts


class Home(Protocol):
    """Where facts are kept, empty at first."""

    async def face(self) -> Facts:
        """The facts as another process would have them, to be closed by ``close``."""

    async def close(self) -> None:
        """Closes all faces and clears the home away."""


class EmbeddedHome:
    """A control file; ``shard`` is whose facts are asked for, None for the directory's own."""

    def __init__(self, shard: int | None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="crest-facts-"))
        self._shard = shard
        self._faces: list[EmbeddedFacts] = []
        os.close(prepare(self._directory, 1))

    async def face(self) -> Facts:
        """Facts with a connection of their own."""
        face = await EmbeddedFacts.open(control_path(self._directory))
        self._faces.append(face)
        return face if self._shard is None else face.of_shard(self._shard)

    async def close(self) -> None:
        """Closes the file and removes it."""
        await asyncio.gather(*(face.close() for face in self._faces))
        shutil.rmtree(self._directory)


class CassandraHome:
    """The control table of a keyspace."""

    def __init__(self, driver: str) -> None:
        self._settings = node_settings(driver)
        self._faces: list[Facts] = []

    async def face(self) -> Facts:
        """Facts with a session of their own."""
        if not self._faces:
            await make_empty(self._settings)
        face = await CassandraFacts.open(self._settings, "facts")
        self._faces.append(face)
        return face

    async def close(self) -> None:
        """Disconnects."""
        await asyncio.gather(*(face.close() for face in self._faces))


class MemoryHome:
    """The facts that simulations build upon."""

    def __init__(self) -> None:
        self._facts = MemoryFacts()

    async def face(self) -> Facts:
        """The one there is."""
        return self._facts

    async def close(self) -> None:
        """Nothing to do."""


HOMES: Final[dict[str, Callable[[], Home]]] = {
    "cassandra-acsylla": partial(CassandraHome, "acsylla"),
    "cassandra-driver": partial(CassandraHome, "cassandra-driver"),
    "embedded": partial(EmbeddedHome, None),
    "embedded-shard": partial(EmbeddedHome, 3),
    "memory": MemoryHome,
}
