"""The storages that tests of the order path run on: a directory of files, and Cassandra shards with a Redis Cluster."""

import asyncio
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.cluster import Cluster
from deploy.cluster.leaflets import SERVER_SETTINGS, TOPOLOGY_FILE
from server.config import load
from server.worker import storage_settings
from shards import assembly, settings
from tests.support.cassandra_node import make_empty, shared_cluster

STORAGES: Final = ("embedded", "cassandra")

SETUPS: Final = (("grpcio", "embedded"), ("native", "embedded"), ("native", "cassandra"))
"""Transport and storage: each of either once, for tests that need not have all combinations."""

SHARDS: Final = 3
"""Of either storage; Cassandra has a node for each."""


@dataclass(frozen=True)
class Storage:
    """Where the orders of a test are kept. Tests share what is not a directory of their own: each has its customers."""

    name: str
    config: Path | None = None
    """The settings file that names it; None: the directory is all there is to say."""
    nodes: Cluster | None = None
    """What it is kept on, if that is not the directory."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What ``python -m server`` is to be told beside a data directory."""
        return () if self.config is None else ("--config", str(self.config))

    @contextmanager
    def prepared(self, data_dir: Path) -> Iterator[assembly.StorageSettings]:
        """Makes and owns it, for a worker inside the test's process."""
        ready = storage_settings(load({"data_dir": data_dir, "shards": SHARDS}, {}, self.config))
        lock = assembly.prepare(ready)
        try:
            yield ready
        finally:
            os.close(lock)


@functools.cache
def storage(name: str) -> Storage:
    """Returns a storage, empty when it is first asked for; skips the test where it cannot be."""
    if name == "embedded":
        return Storage(name)
    return storage_on(shared_cluster(SHARDS, redis=True))


def storage_on(cluster: Cluster) -> Storage:
    """Returns the storage on a cluster that is up, emptied."""
    folder = cluster.state.path
    file = settings.load(folder / TOPOLOGY_FILE, {})

    async def empty() -> None:
        await asyncio.gather(*map(make_empty, file.shards.values()))

    with ThreadPoolExecutor(1) as thread:  # whose loop is its own: the test that asks may be running in one
        thread.submit(asyncio.run, empty()).result()
    return Storage("cassandra", folder / SERVER_SETTINGS, cluster)
