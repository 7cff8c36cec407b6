"""Where orders are kept: the settings of it, and what refuses them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.contract import StoreError, Unavailable
from shards.settings import SettingsError, TopologyFile, load

STORES: Final = ("embedded", "cassandra")
"""What ``StorageSettings.store`` may be."""

CACHES: Final = ("local", "redis_cluster", "none")
"""What ``StorageSettings.cache`` may be."""


class StorageRefused(StoreError):
    """The storage is not what the settings say. Nothing was written. The text is one line for the operator."""


class TopologyFileWrong(StorageRefused):
    """The topology file says what cannot be. The text is one line for the operator, naming the file and the key."""


class TopologyAway(Unavailable):
    """Where the topology is kept cannot be reached, so that nobody knows where an order lives. Try again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where orders are kept and how much a worker holds in memory for them. Counts are per worker process."""

    data_dir: Path
    """Directory of the embedded store."""
    store: str = "embedded"
    """One of ``STORES``."""
    topology_file: str = ""
    """Of the store ``cassandra``: the path of the TOML file that names its clusters."""
    shards: int = 1
    """Shards of a directory that is yet to be made."""
    queue_rows_max: int = 4_096
    """Writes of one shard that wait or are under way; more are refused."""
    reads_max: int = 8_192
    """Rows of one shard being read; more are refused."""
    cache: str = "local"
    """One of ``CACHES``. With ``redis_cluster`` the most used rows are remembered in the process, too."""
    cache_rows_max: int = 50_000
    """Orders remembered in the process; 0 for none."""
    cache_bytes_max: int = 128 * 1024 * 1024
    """About how many bytes they may take."""
    cache_ttl_s: float = 5.0
    """Age beyond which none of them is answered."""
    redis_seeds: tuple[tuple[str, int], ...] = ()
    """Host and port of some nodes of the Redis Cluster, for the cache of that name."""
    redis_prefix: str = "crest:"
    """Before every key in it: another one for each data directory or cluster that shares a Redis Cluster."""
    redis_username: str = ""
    """Empty: Redis' default user."""
    redis_password_file: Path | None = None
    """File whose first line is the password; None for no password."""

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise ValueError(f"store {self.store!r}; there are {', '.join(STORES)}")
        if self.cache not in CACHES:
            raise ValueError(f"cache {self.cache!r}; there are {', '.join(CACHES)}")
        if self.cache == "redis_cluster" and not self.redis_seeds:
            raise ValueError("the cache redis_cluster needs redis_seeds")


def load_file(path: Path) -> TopologyFile:
    """Reads the topology file. Raises ``TopologyFileWrong``."""
    try:
        return load(path, os.environ)
    except SettingsError as error:
        raise TopologyFileWrong(str(error)) from error
