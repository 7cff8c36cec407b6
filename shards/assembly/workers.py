"""Opens shards for workers, with all that is around a store: lanes, bounds, caches."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Protocol

from shards.assembly.caches import open_cache
from shards.assembly.storage import StorageRefused, StorageSettings, TopologyAway, load_file
from shards.caches.redis_cluster import CLOCKS_DIFFER_S
from shards.contract import Cache, Observer, Row, Store, Unavailable
from shards.facts import Facts
from shards.following import Follower, OpenShard
from shards.handing.handing import Handing
from shards.homes import FollowedHome, claim_of
from shards.lanes import Lanes
from shards.leases.watch import has_states
from shards.places import Places, Shard
from shards.routing import Router
from shards.settings import TopologyFile
from shards.stores import embedded
from shards.stores.cassandra import CassandraFacts, CassandraStore
from shards.stores.embedded import EmbeddedStore, datadir
from shards.stores.embedded.control import EmbeddedFacts
from shards.topology import Topology
from shards.topology_store import TopologyStore
from shards.wrappers.bounded import BoundedStore
from shards.wrappers.cached import CachedStore
from shards.wrappers.gathered import GatheredStore
from shards.wrappers.observed import ObservedCache, ObservedStore
from shards.wrappers.seals import Seals

_CONNECT_WAIT_S: Final = 3.0
"""How long a worker's start waits for a cluster; its shard is unavailable from then until it is there."""


def prepare(settings: StorageSettings) -> int:
    """Makes or checks what the stores need, once, before any worker opens a router. Blocks.

    Returns an inheritable descriptor: the data is ours while any process holds it open. Raises ``StoreError`` with one
    line for the operator.
    """
    if settings.store == "embedded":
        return datadir.prepare(settings.data_dir, settings.shards)
    file = load_file(Path(settings.topology_file))
    if file.embedded is not None:
        return datadir.join(file.embedded.data_dir)
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


async def open_router(settings: StorageSettings, observer: Observer, handing: Handing | None = None) -> Router:
    """Opens every shard for this event loop; ``Router.close`` closes them.

    ``handing``: what rows go through whose lanes other workers commit; the caller closes it, after the router. None
    where this worker commits all by itself.

    Shards that are away are opened all the same. From then on the topology is followed: shards that it gains and loses
    are opened and closed. Raises ``TopologyAway``, and ``StoreError`` for what waiting does not mend.
    """
    async with AsyncExitStack() as opening:
        stores = await _open_stores(settings, opening)
        topologies = TopologyStore(stores.home)
        try:
            topology = await topologies.load() or await _first_topology(stores, topologies)
        except Unavailable as error:
            raise TopologyAway(str(error)) from error
        cache = await open_cache(settings, observer)
        opening.push_async_callback(cache.close)
        places = Places(topology, {}, observer, {})
        follower = Follower(topologies, places, _Opener(stores, cache, settings, observer, handing), observer)
        opening.push_async_callback(follower.close)
        await follower.start(lease_wait_s=_CONNECT_WAIT_S)
        if handing is not None:
            await handing.listen(places)
        return Router(places, observer, opening.pop_all())
    raise AssertionError  # an exit stack of closers swallows nothing


def shard_over(
    store: Store,
    shard: int,
    cache: Cache,
    settings: StorageSettings,
    observer: Observer,
    handing: Handing | None = None,
    *,
    lanes: int = 1,
) -> Shard:
    """Returns what the router needs of one shard, around its bare store of so many lanes."""
    observed = ObservedStore(store, shard=shard, observer=observer)
    remembered_s = settings.cache_ttl_s + CLOCKS_DIFFER_S
    cached = CachedStore(
        GatheredStore(observed),
        ObservedCache(cache, observer),
        observer,
        remembered_s=remembered_s,
        joined_s=settings.cache_ttl_s,
    )
    # through the cache, so that what is written can be read from it
    own = Lanes(cached, shard=shard, queue_rows_max=settings.queue_rows_max, observer=observer)
    return Shard(
        lanes=own if handing is None else handing.around(shard, own, cached, lanes=lanes),
        # the bound is for callers; lanes that settle must not be refused by it
        store=BoundedStore(cached, reads_max=settings.reads_max),
        seals=Seals(observed),
    )


class _Stores(Protocol):
    """Where the topology is kept, and what opens the bare store of a shard."""

    home: Facts

    def first_topology(self) -> Topology:
        """Returns the topology of a new installation; of several workers that make one the first decides."""

    async def was_served(self, shard: int) -> bool:
        """Tells whether workers have ever held leases on a shard of the first topology. Raises ``StoreError``."""

    async def open(self, shard: int) -> tuple[Store, Facts, int]:
        """Opens a shard, of so many lanes, and the facts beside it, which are closed with it. Raises ``StoreError``."""


class _EmbeddedStores:
    """The files of a data directory."""

    def __init__(self, settings: StorageSettings, control: EmbeddedFacts) -> None:
        self.home: Facts = FollowedHome(control, _nowhere)
        self._control = control
        self._settings = settings

    def first_topology(self) -> Topology:
        return Topology.initial(self._settings.shards)

    async def was_served(self, shard: int) -> bool:
        return await has_states(self._control.of_shard(shard))

    async def open(self, shard: int) -> tuple[Store, Facts, int]:
        store = await EmbeddedStore.open(datadir.shard_path(self._settings.data_dir, shard))
        return store, self._control.of_shard(shard), 1


class _FileStores:
    """What a topology file names. It is read again for a shard that it did not name when the worker started."""

    def __init__(
        self, settings: StorageSettings, file: TopologyFile, home: Facts, control: EmbeddedFacts | None
    ) -> None:
        """``control``: of the data directory that the file names, if it does."""
        self.home: Facts = FollowedHome(home, lambda: next_homes(Path(settings.topology_file)))
        self._settings = settings
        self._file = file
        self._control = control

    def first_topology(self) -> Topology:
        if self._file.embedded is not None:
            # where the orders in it are is already known to the topology that is kept in it, and to no other
            raise StorageRefused("the topology file names a data directory, but where it keeps the topology is none")
        count = len(self._file.shards)
        if sorted(self._file.shards) != list(range(count)):
            raise StorageRefused(f"the first topology needs shards 0 to {count - 1} in the topology file")
        return Topology.initial(count)

    async def was_served(self, shard: int) -> bool:
        # the store of the shard, which is opened next, tells what it finds of the nodes: once is enough
        facts = await CassandraFacts.open(
            self._file.shards[shard], f"shard {shard}", wait_s=_CONNECT_WAIT_S, warns=False
        )
        try:
            return await has_states(facts)
        finally:
            await facts.close()

    async def open(self, shard: int) -> tuple[Store, Facts, int]:
        if shard not in self._file.ids:
            self._file = await asyncio.to_thread(load_file, Path(self._settings.topology_file))
        if shard in self._file.shards:
            cluster = self._file.shards[shard]
            store = await CassandraStore.open(cluster, name=f"shard {shard}", wait_s=_CONNECT_WAIT_S)
            return store, store.facts, cluster.lanes
        if self._file.embedded is None or shard not in self._file.embedded.shards:
            raise StorageRefused(f"the topology file does not name shard {shard} of the topology")
        if self._control is None:
            raise StorageRefused("the topology file names a data directory since this server was started: restart it")
        file = await EmbeddedStore.open(datadir.shard_path(self._file.embedded.data_dir, shard))
        return file, self._control.of_shard(shard), 1


class _Opener:
    """Opens shards with everything around their stores."""

    def __init__(
        self,
        stores: _Stores,
        cache: Cache,
        settings: StorageSettings,
        observer: Observer,
        handing: Handing | None,
    ) -> None:
        self._handing = handing
        self._stores = stores
        self._cache = cache
        self._settings = settings
        self._observer = observer

    async def open(self, shard: int) -> OpenShard:
        """See ``shards.following.Opener``."""
        store, facts, lanes = await self._stores.open(shard)
        around = shard_over(store, shard, self._cache, self._settings, self._observer, self._handing, lanes=lanes)
        return OpenShard(around, facts, store.close)


async def _first_topology(stores: _Stores, topologies: TopologyStore) -> Topology:
    """Makes the first topology. Raises ``StorageRefused`` where this is not the first home of the shards."""
    first = stores.first_topology()
    if await claim_of(stores.home) is not None:
        raise StorageRefused(
            "the topology has not moved yet to where the topology file keeps it: name that as [topology.next] until "
            "`python -m shards.rebalance home move` has moved it"
        )
    were_served = await asyncio.gather(*(stores.was_served(info.id) for info in first.shards))
    served = [info.id for info, was_served in zip(first.shards, were_served, strict=True) if was_served]
    made = await topologies.load()  # looked for again: whoever makes the first one serves its shards afterwards
    if made is None and served:
        raise StorageRefused(
            f"shard {served[0]} has been served, but there is no topology where the topology file keeps it: it has "
            "another home, which the file must name as [topology]"
        )
    return made or await topologies.create(first)


async def next_homes(path: Path) -> list[Facts]:
    """Opens what the topology file says that the topology moves to, or has moved to. Raises ``StoreError``."""
    file = await asyncio.to_thread(load_file, path)
    opened: list[Facts] = []
    try:
        for settings in filter(None, (file.next, file.topology)):
            facts = await CassandraFacts.open(settings, "next topology", wait_s=_CONNECT_WAIT_S)
            opened.append(facts)
    except BaseException:
        await asyncio.gather(*(facts.close() for facts in opened))
        raise
    return opened


async def _nowhere() -> list[Facts]:
    return []


async def _open_stores(settings: StorageSettings, opening: AsyncExitStack) -> _Stores:
    control: EmbeddedFacts | None = None
    if settings.store == "embedded":
        control = await EmbeddedFacts.open(datadir.control_path(settings.data_dir))
        opening.push_async_callback(control.close)
        stores: _Stores = _EmbeddedStores(settings, control)
        opening.push_async_callback(stores.home.close)
        return stores
    file = load_file(Path(settings.topology_file))
    if file.embedded is not None:
        control = await EmbeddedFacts.open(datadir.control_path(file.embedded.data_dir))
        opening.push_async_callback(control.close)
    home: Facts | None = control
    if file.topology is not None:
        home = await CassandraFacts.open(file.topology, "topology", wait_s=_CONNECT_WAIT_S)
        opening.push_async_callback(home.close)
    assert home is not None, "a topology file without clusters names a data directory"
    stores = _FileStores(settings, file, home, control)
    opening.push_async_callback(stores.home.close)
    return stores


def _must_be_embedded(settings: StorageSettings) -> None:
    if settings.store != "embedded":
        raise StorageRefused(
            f"backup, restore and export are of the embedded store; what the store {settings.store} holds is backed up "
            "with its own tools (nodetool snapshot), and listed customer by customer"
        )
