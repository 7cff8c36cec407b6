"""Cassandra nodes that are away, killed and frozen: what the store says then, and that it comes back by itself."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from deploy.cluster import Cluster
from shards.contract import Consistency, Outcome, Row, Store, StoreError, Unavailable, Verdict
from shards.lanes import Lanes
from shards.settings import CassandraSettings
from shards.stores.cassandra import CassandraFacts, CassandraStore, ShardMismatch
from tests.support.cassandra_node import DRIVERS, make_empty, revive, settings_for, shared_cluster
from tests.support.observers import Notes
from tests.support.proxy import Proxy
from tests.support.rows import new_row, next_version, soon
from tests.support.waiting import until

STRONG = Consistency.STRONG
READY_S = 90.0

RECOVERED_S: Final = 20.0
"""For a store to serve when its node does; a driver tries to connect twice a second, and a node that has just started,
on a machine that is busy, may take seconds for its first answers.
"""

TRIES: Final = 8
TRIES_S: Final = 20.0
"""So often a driver tries to connect in this time while its node is away; with pauses that double from two seconds it
would be six times.
"""

REQUEST_S: Final = 5.0
"""What a request that is sent may take, by default."""

PROXY_PORT: Final = 20_949

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def cluster() -> Cluster:
    """The cluster of the run; each test leaves its node running."""
    return shared_cluster()


@pytest_asyncio.fixture(params=DRIVERS)
async def settings(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[CassandraSettings]:
    """An empty keyspace on the node, which runs and is awake, then and afterwards."""
    spec = cluster.spec
    settings = settings_for(spec.first_address, spec.cql_port, request.param, "crest_faults")
    await make_empty(settings)
    yield settings
    await restart(cluster)


async def restart(cluster: Cluster) -> None:
    """Starts or wakes the node; returns when it serves."""
    cluster.node(0).resume()
    await asyncio.to_thread(revive, cluster)


@pytest_asyncio.fixture
async def proxy(settings: CassandraSettings) -> AsyncIterator[Proxy]:
    """The way to the node."""
    (host,) = settings.contact_points
    async with Proxy(host, PROXY_PORT, (host, settings.port)) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def store(settings: CassandraSettings) -> AsyncIterator[CassandraStore]:
    """A connected store."""
    store = await CassandraStore.open(settings, is_indexing=False)
    yield store
    await store.close()


async def commit_anyway(store: Store, row: Row) -> Outcome | None:
    """The outcome of a commit; None while the shard cannot be reached."""
    try:
        (outcome,) = await store.commit([row])
    except StoreError:
        return None
    return outcome


async def test_store_opens_without_its_cluster_and_comes_up_with_it(
    cluster: Cluster, settings: CassandraSettings
) -> None:
    """A store whose node is away opens, answers Unavailable at once, and serves as soon as the node does."""
    cluster.node(0).kill()
    store = await CassandraStore.open(settings, wait_s=0.5, is_indexing=False)
    row = new_row()
    began = time.monotonic()
    for call in (store.commit([row]), store.read([row.key], STRONG), store.seal(row.key)):
        with pytest.raises(Unavailable, match="shard"):
            await call
    assert time.monotonic() - began < REQUEST_S, "refused without trying, so it takes no time"
    await restart(cluster)
    # a store that never was connected pauses longer between its tries
    await until(lambda: commit_anyway(store, row), lambda outcome: outcome is not None)
    assert await store.read([row.key], STRONG) == [row]
    await store.close()


async def test_killed_node_is_unavailable_and_comes_back(cluster: Cluster, store: CassandraStore) -> None:
    """Killed under its connections a node is soon Unavailable, reads and writes, and serves again once restarted."""
    row = new_row()
    await store.commit([row])
    cluster.node(0).kill()

    async def refused() -> type[Exception] | None:
        try:
            await store.commit([new_row("later")])
        except StoreError as error:
            return type(error)
        return None

    await until(refused, lambda kind: kind is Unavailable)
    with pytest.raises(Unavailable):
        await store.read([row.key], Consistency.CACHED)
    await restart(cluster)
    assert await until(lambda: commit_anyway(store, row), lambda outcome: outcome is not None, RECOVERED_S) == Outcome(
        Verdict.CLASH, row
    )


async def test_a_node_that_was_away_for_long_is_found_at_once(settings: CassandraSettings, proxy: Proxy) -> None:
    """However long a node is away, a driver tries to reach it at one pace, and serves soon after it is back."""
    store = await CassandraStore.open(dataclasses.replace(settings, port=PROXY_PORT), is_indexing=False)
    proxy.cut()

    async def tries() -> int:
        return proxy.refused

    await until(tries, lambda count: count >= TRIES, TRIES_S)
    proxy.heal()
    await until(lambda: commit_anyway(store, new_row()), lambda outcome: outcome is not None, RECOVERED_S)
    await store.close()


async def test_a_slow_read_ends_with_its_connection(settings: CassandraSettings, proxy: Proxy) -> None:
    """A read that waits so long that it may be sent twice is answered when its connection ends, and not forgotten."""
    eager = dataclasses.replace(settings, port=PROXY_PORT, speculative_delay_s=0.02)
    store = await CassandraStore.open(eager, is_indexing=False)
    proxy.drop_replies()
    reads = [asyncio.create_task(store.read([new_row().key], Consistency.CACHED)) for _ in range(20)]
    done, _ = await asyncio.wait(reads, timeout=0.3)
    assert not done, "nobody answers"
    proxy.cut()
    ended = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), RECOVERED_S)
    assert all(isinstance(error, StoreError) for error in ended), ended
    proxy.heal()
    await until(lambda: commit_anyway(store, new_row()), lambda outcome: outcome is not None, RECOVERED_S)
    await store.close()


async def test_frozen_node_leaves_outcomes_open_and_none_is_lost(cluster: Cluster, store: CassandraStore) -> None:
    """What was sent to a node that froze has an unknown outcome, never Unavailable; awake again, all is settled."""
    first = new_row()
    await store.commit([first])
    cluster.node(0).pause()
    try:
        with pytest.raises(StoreError) as caught:
            await store.commit([next_version(first)])
        assert not isinstance(caught.value, Unavailable)
    finally:
        cluster.node(0).resume()
    second = next_version(first, body=b"second")
    outcome = await until(lambda: commit_anyway(store, second), lambda outcome: outcome is not None, READY_S)
    assert outcome is not None
    (present,) = await store.read([first.key], STRONG)
    assert present == (second if outcome.verdict is Verdict.APPLIED else outcome.present)


async def test_acknowledged_rows_outlive_a_kill_under_load(cluster: Cluster, store: CassandraStore) -> None:
    """Of rows written through lanes while the node is killed and restarted, every acknowledged one is there after."""
    lanes = Lanes(store, shard=0, queue_rows_max=1_000, observer=Notes())
    acknowledged: list[Row] = []
    stop = False

    async def write(number: int) -> None:
        while not stop:
            row = new_row(f"customer {number}")
            try:
                outcome = await lanes.write(row, soon(20))
            except StoreError:
                await asyncio.sleep(0.05)  # sleep: a caller's own pause before the next order
                continue
            # its own row as a clash: the driver had sent it twice, or it was settled
            assert outcome.verdict is Verdict.APPLIED or outcome == Outcome(Verdict.CLASH, row)
            acknowledged.append(row)

    async def count() -> int:
        return len(acknowledged)

    writers = [asyncio.create_task(write(number)) for number in range(16)]
    await until(count, lambda rows: rows >= 100, READY_S)
    cluster.node(0).kill()
    await restart(cluster)
    goal = len(acknowledged) + 100
    await until(count, lambda rows: rows >= goal, READY_S)
    stop = True
    await asyncio.gather(*writers)
    await lanes.close()
    for start in range(0, len(acknowledged), 500):
        part = acknowledged[start : start + 500]
        assert await store.read([row.key for row in part], STRONG) == part


async def test_weak_settings_are_logged_at_the_start(
    settings: CassandraSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Connecting to a keyspace with one copy of everything warns, with the consequence; a mere look at it does not."""
    store = await CassandraStore.open(settings, name="shard 7", is_indexing=False)
    await store.close()
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "crest.cassandra"]
    assert warning.startswith("shard 7: keyspace crest_faults keeps 1 copy")
    caplog.clear()
    await (await CassandraFacts.open(settings, "shard 7", warns=False)).close()
    assert not [record for record in caplog.records if record.name == "crest.cassandra"]


async def test_other_settings_than_the_shards_are_refused(settings: CassandraSettings) -> None:
    """A worker whose file says other lanes, or another keyspace, than the cluster does not start."""
    for wrong, words in (
        (dataclasses.replace(settings, lanes=5), "created with lanes = 1"),
        (dataclasses.replace(settings, keyspace="nowhere"), "shards.schema apply"),
    ):
        with pytest.raises(ShardMismatch, match=words):
            await CassandraStore.open(wrong, is_indexing=False)
