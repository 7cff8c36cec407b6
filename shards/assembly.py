"""Puts shards together: the only file that names concrete stores, caches and wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.caches.layered import LayeredCache
from shards.caches.local import LocalCache
from shards.caches.redis_cluster import CLOCKS_DIFFER_S, Access, RedisClusterCache
from shards.contract import Cache, Observer, Row, Store, Unavailable
from shards.lanes import Lanes
from shards.routing import Router, Shard
from shards.stores import embedded
from shards.stores.embedded import EmbeddedStore, datadir
from shards.stores.embedded.control import EmbeddedTopologyStore
from shards.topology import Topology
from shards.wrappers.bounded import BoundedStore
from shards.wrappers.cached import CachedStore
from shards.wrappers.observed import ObservedCache, ObservedStore
from shards.wrappers.seals import Seals

STORES: Final = ("embedded",)
"""What ``StorageSettings.store`` may be."""

CACHES: Final = ("local", "redis_cluster", "none")
"""What ``StorageSettings.cache`` may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where orders are kept and how much a worker holds in memory for them. Counts are per worker process."""

    data_dir: Path
    """Directory of the embedded store."""
    store: str = "embedded"
    """One of ``STORES``."""
    shards: int = 4
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


def prepare(settings: StorageSettings) -> int:
    """Makes or checks what the stores need, once, before any worker opens a router. Blocks.

    Returns an inheritable descriptor: the data is ours while any process holds it open. Raises ``StoreError`` with one
    line for the operator.
    """
    return datadir.prepare(settings.data_dir, settings.shards)


def backup(settings: StorageSettings, target: Path) -> int:
    """Copies all that is stored into the directory ``target``, also while it is served; returns the number of orders.

    Blocks. Raises ``StoreError`` with one line for the operator, as the next two do.
    """
    return embedded.backup(settings.data_dir, target)


def restore(settings: StorageSettings, source: Path) -> int:
    """Makes a data directory, where none is, of a backup that it checks first; returns the number of orders. Blocks."""
    return embedded.restore(source, settings.data_dir)


def iterate_rows(settings: StorageSettings) -> Iterator[Row]:
    """Yields the row of every order, also while they are served; see ``embedded.iterate_rows``. Blocks."""
    return embedded.iterate_rows(settings.data_dir)


async def open_router(settings: StorageSettings, observer: Observer) -> Router:
    """Opens every shard for this event loop; ``Router.close`` closes them. Raises ``StoreError``."""
    async with AsyncExitStack() as opening:
        topology = await _load_topology(settings, opening)
        cache = await _open_cache(settings, observer)
        opening.push_async_callback(cache.close)
        shards: dict[int, Shard] = {}
        for info in topology.shards:
            store = await EmbeddedStore.open(datadir.shard_path(settings.data_dir, info.id))
            opening.push_async_callback(store.close)
            shards[info.id] = shard_over(store, info.id, cache, settings, observer)
            opening.push_async_callback(shards[info.id].lanes.close)
        return Router(topology, shards, observer, opening.pop_all())
    raise AssertionError  # an exit stack of closers swallows nothing


def shard_over(store: Store, shard: int, cache: Cache, settings: StorageSettings, observer: Observer) -> Shard:
    """Returns what the router needs of one shard, around its bare store."""
    observed = ObservedStore(store, shard=shard, observer=observer)
    remembered_s = settings.cache_ttl_s + CLOCKS_DIFFER_S
    cached = CachedStore(
        observed,
        ObservedCache(cache, observer),
        observer,
        remembered_s=remembered_s,
        joined_s=settings.cache_ttl_s,
    )
    return Shard(
        # through the cache, so that what is written can be read from it
        lanes=Lanes(cached, shard=shard, queue_rows_max=settings.queue_rows_max, observer=observer),
        # the bound is for callers; lanes that settle must not be refused by it
        store=BoundedStore(cached, reads_max=settings.reads_max),
        seals=Seals(observed),
    )


async def _open_cache(settings: StorageSettings, observer: Observer) -> Cache:
    """Returns the cache, also when what it is kept in is away. Raises ``Unavailable`` for a password not to be read."""
    near = LocalCache(
        rows_max=0 if settings.cache == "none" else settings.cache_rows_max,
        bytes_max=settings.cache_bytes_max,
        ttl_s=settings.cache_ttl_s,
    )
    if settings.cache != "redis_cluster":
        return near
    access = Access(
        seeds=settings.redis_seeds,
        username=settings.redis_username or None,
        password=_first_line(settings.redis_password_file),
    )
    far = await RedisClusterCache.open(access, observer, ttl_s=settings.cache_ttl_s, prefix=settings.redis_prefix)
    return LayeredCache(near, far, observer)


def _first_line(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().partition("\n")[0].strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"the Redis password in {file} cannot be read: {error}") from error


async def _load_topology(settings: StorageSettings, opening: AsyncExitStack) -> Topology:
    """Returns the topology that is there, or the first one, which every worker that finds none would make alike."""
    store = await EmbeddedTopologyStore.open(datadir.control_path(settings.data_dir))
    opening.push_async_callback(store.close)
    return await store.load() or await store.create(Topology.initial(settings.shards))
