"""Puts shards together: the only file that names concrete stores, caches and wrappers."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shards.caches.local import LocalCache
from shards.contract import Cache, Observer, Store
from shards.lanes import Lanes
from shards.routing import Router, Shard
from shards.stores.embedded import EmbeddedStore, datadir
from shards.stores.embedded.control import EmbeddedTopologyStore
from shards.topology import Topology
from shards.wrappers.bounded import BoundedStore
from shards.wrappers.cached import CachedStore
from shards.wrappers.observed import ObservedStore
from shards.wrappers.seals import Seals

STORES: Final = ("embedded",)
"""What ``StorageSettings.store`` may be."""


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
    cache_rows_max: int = 50_000
    """Orders remembered; 0 turns the cache off."""
    cache_bytes_max: int = 128 * 1024 * 1024
    """About how many bytes they may take."""
    cache_ttl_s: float = 5.0
    """Age beyond which none of them is answered."""

    def __post_init__(self) -> None:
        if self.store not in STORES:
            raise ValueError(f"store {self.store!r}; there are {', '.join(STORES)}")


def prepare(settings: StorageSettings) -> int:
    """Makes or checks what the stores need, once, before any worker opens a router. Blocks.

    Returns an inheritable descriptor: the data is ours while any process holds it open. Raises ``StoreError`` with one
    line for the operator.
    """
    return datadir.prepare(settings.data_dir, settings.shards)


async def open_router(settings: StorageSettings, observer: Observer) -> Router:
    """Opens every shard for this event loop; ``Router.close`` closes them. Raises ``StoreError``."""
    async with AsyncExitStack() as opening:
        topology = await _load_topology(settings, opening)
        cache = LocalCache(
            rows_max=settings.cache_rows_max, bytes_max=settings.cache_bytes_max, ttl_s=settings.cache_ttl_s
        )
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
    cached = CachedStore(observed, cache, observer)
    return Shard(
        # through the cache, so that what is written can be read from it
        lanes=Lanes(cached, shard=shard, queue_rows_max=settings.queue_rows_max, observer=observer),
        # the bound is for callers; lanes that settle must not be refused by it
        store=BoundedStore(cached, reads_max=settings.reads_max),
        seals=Seals(observed),
    )


async def _load_topology(settings: StorageSettings, opening: AsyncExitStack) -> Topology:
    """Returns the topology that is there, or the first one, which every worker that finds none would make alike."""
    store = await EmbeddedTopologyStore.open(datadir.control_path(settings.data_dir))
    opening.push_async_callback(store.close)
    return await store.load() or await store.create(Topology.initial(settings.shards))
