"""Puts shards together: the only file that names concrete stores, caches and wrappers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.caches.layered import LayeredCache
from shards.caches.local import LocalCache
from shards.caches.redis_cluster import CLOCKS_DIFFER_S, Access, RedisClusterCache
from shards.contract import Cache, Observer, Row, Store, StoreError, Unavailable
from shards.lanes import Lanes
from shards.routing import Router, Shard
from shards.settings import CassandraSettings, SettingsError, TopologyFile, load
from shards.stores import embedded
from shards.stores.cassandra import CassandraFacts, CassandraStore
from shards.stores.embedded import EmbeddedStore, datadir
from shards.stores.embedded.control import EmbeddedFacts
from shards.topology import Topology
from shards.topology_store import TopologyStore
from shards.wrappers.bounded import BoundedStore
from shards.wrappers.cached import CachedStore
from shards.wrappers.observed import ObservedCache, ObservedStore
from shards.wrappers.seals import Seals

STORES: Final = ("embedded", "cassandra")
"""What ``StorageSettings.store`` may be."""

CACHES: Final = ("local", "redis_cluster", "none")
"""What ``StorageSettings.cache`` may be."""

_CONNECT_WAIT_S: Final = 3.0
"""How long a worker's start waits for a cluster; its shard is unavailable from then until it is there."""


class StorageRefused(StoreError):
    """The storage is not what the settings say. Nothing was written. The text is one line for the operator."""


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


def prepare(settings: StorageSettings) -> int:
    """Makes or checks what the stores need, once, before any worker opens a router. Blocks.

    Returns an inheritable descriptor: the data is ours while any process holds it open. Raises ``StoreError`` with one
    line for the operator.
    """
    if settings.store == "embedded":
        return datadir.prepare(settings.data_dir, settings.shards)
    _load_file(settings)
    # there is nothing on this machine that would have to be ours alone
    descriptor = os.open(settings.topology_file, os.O_RDONLY)
    os.set_inheritable(descriptor, True)  # noqa: FBT003  the library's signature
    return descriptor


def backup(settings: StorageSettings, target: Path) -> int:
    """Copies all that is stored into the directory ``target``, also while it is served; returns the number of orders.

    Blocks. Raises ``StoreError`` with one line for the operator, as the next two do.
    """
    _must_be_embedded(settings)
    return embedded.backup(settings.data_dir, target)


def restore(settings: StorageSettings, source: Path) -> int:
    """Makes a data directory, where none is, of a backup that it checks first; returns the number of orders. Blocks."""
    _must_be_embedded(settings)
    return embedded.restore(source, settings.data_dir)


def iterate_rows(settings: StorageSettings) -> Iterator[Row]:
    """Yields the row of every order, also while they are served; see ``embedded.iterate_rows``. Blocks."""
    _must_be_embedded(settings)
    return embedded.iterate_rows(settings.data_dir)


async def open_router(settings: StorageSettings, observer: Observer) -> Router:
    """Opens every shard for this event loop; ``Router.close`` closes them.

    Shards that are away are opened all the same. Raises ``TopologyAway``, and ``StoreError`` for what waiting does not
    mend.
    """
    async with AsyncExitStack() as opening:
        if settings.store == "embedded":
            topology, stores = await _open_embedded(settings, opening)
        else:
            topology, stores = await _open_cassandra(_load_file(settings), opening)
        cache = await _open_cache(settings, observer)
        opening.push_async_callback(cache.close)
        shards: dict[int, Shard] = {}
        for shard, store in stores.items():
            shards[shard] = shard_over(store, shard, cache, settings, observer)
            opening.push_async_callback(shards[shard].lanes.close)
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


async def _open_embedded(settings: StorageSettings, opening: AsyncExitStack) -> tuple[Topology, Mapping[int, Store]]:
    """Returns the topology and the store of each shard. The first worker that finds no topology makes one."""
    facts = await EmbeddedFacts.open(datadir.control_path(settings.data_dir))
    opening.push_async_callback(facts.close)
    control = TopologyStore(facts)
    topology = await control.load() or await control.create(Topology.initial(settings.shards))
    stores: dict[int, Store] = {}
    for info in topology.shards:
        store = await EmbeddedStore.open(datadir.shard_path(settings.data_dir, info.id))
        opening.push_async_callback(store.close)
        stores[info.id] = store
    return topology, stores


async def _open_cassandra(file: TopologyFile, opening: AsyncExitStack) -> tuple[Topology, Mapping[int, Store]]:
    """Returns the topology and the store of each shard, which need not be there yet."""
    facts = await CassandraFacts.open(file.topology, "topology", wait_s=_CONNECT_WAIT_S)
    opening.push_async_callback(facts.close)
    control = TopologyStore(facts)
    try:
        topology = await control.load() or await _first_topology(control, file)
    except Unavailable as error:
        raise TopologyAway(str(error)) from error
    if unnamed := [info.id for info in topology.shards if info.id not in file.shards]:
        raise StorageRefused(f"the topology file does not name shard {', '.join(map(str, unnamed))} of the topology")

    stores: dict[int, Store] = {}

    async def open_one(shard: int, settings: CassandraSettings) -> None:
        stores[shard] = store = await CassandraStore.open(settings, name=f"shard {shard}", wait_s=_CONNECT_WAIT_S)
        opening.push_async_callback(store.close)

    opened = await asyncio.gather(
        *(open_one(info.id, file.shards[info.id]) for info in topology.shards), return_exceptions=True
    )
    for failure in opened:  # looked at when all are done, so that whatever was opened is closed
        if failure is not None:
            raise failure
    return topology, stores


async def _first_topology(control: TopologyStore, file: TopologyFile) -> Topology:
    """Makes the topology of a new installation; of several workers that do, the first decides."""
    if sorted(file.shards) != list(range(len(file.shards))):
        raise StorageRefused(f"the first topology needs shards 0 to {len(file.shards) - 1} in the topology file")
    return await control.create(Topology.initial(len(file.shards)))


def _must_be_embedded(settings: StorageSettings) -> None:
    if settings.store != "embedded":
        raise StorageRefused(f"the store {settings.store} is backed up with its own tools: nodetool snapshot")


def _load_file(settings: StorageSettings) -> TopologyFile:
    try:
        return load(Path(settings.topology_file), os.environ)
    except SettingsError as error:
        raise StorageRefused(str(error)) from error


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
