"""The shared cache while its Redis Cluster dies in every way it can: no wrong answer, and no call that fails."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from shards.caches.redis_cluster import RedisClusterCache, masters
from shards.caches.redis_cluster import node as nodes
from shards.caches.redis_cluster.entries import key_text
from tests.support.cached_face import Face, SlowStore, Witness
from tests.support.memory_store import MemoryStore
from tests.support.observers import Notes
from tests.support.redis_nodes import RedisCluster, redis_cluster
from tests.support.rows import key_in_slot, new_row, next_version
from tests.support.waiting import until

TTL_S = 10.0
"""Longer than a failover, so that what Redis lost would be answered if nobody took care."""
PREFIX = "faults:"
ROUNDS = 5 if os.environ.get("TORTURE") else 1
SPREAD = range(0, 4096, 64)
"""Slots enough that every master has some."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One Redis Cluster for all tests here."""
    with redis_cluster(tmp_path_factory.mktemp("redis"), 26_901) as made:
        yield made


@pytest.fixture
def cluster(booted: RedisCluster) -> Iterator[RedisCluster]:
    """The cluster, whole before and after."""
    yield booted
    booted.revive()
    booted.wait_whole()


@pytest_asyncio.fixture
async def notes() -> Notes:
    """What the cache reports."""
    return Notes()


@pytest_asyncio.fixture
async def cache(cluster: RedisCluster, notes: Notes) -> AsyncIterator[RedisClusterCache]:
    """The cache alone, which waits for a slow machine."""
    cache = await RedisClusterCache.open(cluster.access, notes, ttl_s=600, prefix=PREFIX)
    yield cache
    await cache.close()


@pytest_asyncio.fixture
async def prompt(cluster: RedisCluster, notes: Notes) -> AsyncIterator[RedisClusterCache]:
    """The cache alone, as soon tired of waiting as a worker is, and not told of what changed but by what fails."""
    cache = await RedisClusterCache.open(cluster.prompt, notes, ttl_s=600, prefix=PREFIX)
    yield cache
    await cache.close()


@pytest.fixture(autouse=True)
def _unprompted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is never asked for again unprompted while a test lasts."""
    monkeypatch.setattr(masters, "REFRESH_S", 3600.0)


async def works(cache: RedisClusterCache) -> None:
    """Waits until rows of all masters are remembered."""
    rows = [new_row()._replace(key=key_in_slot(slot)) for slot in SPREAD]

    async def again() -> object:
        await cache.put(rows, time.monotonic())
        return await cache.get([row.key for row in rows])

    await until(again, lambda answer: answer == rows)


async def test_a_killed_master_is_a_miss_until_its_replica_takes_over(
    cluster: RedisCluster, cache: RedisClusterCache, notes: Notes
) -> None:
    """Rows of a master that is gone are misses, reported, and are remembered again when a replica has its place."""
    rows = [new_row()._replace(key=key_in_slot(slot)) for slot in SPREAD]
    keys = [row.key for row in rows]
    await works(cache)
    await cache.put(rows, time.monotonic())
    victim = cluster.master_of(key_text(PREFIX, keys[0]))
    victim.kill()
    answer = await cache.get(keys)
    assert answer[0] is None
    assert notes.cache_events["error"] >= 1
    assert all(row is None or row == wanted for row, wanted in zip(answer, rows, strict=True))
    await works(cache)
    assert victim not in cluster.masters()


async def test_a_full_failover_is_followed(cluster: RedisCluster, cache: RedisClusterCache) -> None:
    """When every master changes places with its replica, rows are remembered at the new ones."""
    await works(cache)
    before = cluster.masters()
    for node in cluster.nodes:
        if node not in before:
            node.ask("CLUSTER", "FAILOVER", "TAKEOVER")
    await works(cache)
    assert not set(before) & set(cluster.masters())


async def test_flushing_forgets(cluster: RedisCluster, cache: RedisClusterCache) -> None:
    """After FLUSHALL everything is a miss, and what is put then is remembered."""
    await works(cache)
    row = new_row()
    await cache.put([row], time.monotonic())
    cluster.flush()
    assert await cache.get([row.key]) == [None]
    await cache.put([row], time.monotonic())
    assert await cache.get([row.key]) == [row]


async def test_a_forgotten_script_is_loaded_again(
    cluster: RedisCluster, cache: RedisClusterCache, notes: Notes
) -> None:
    """A node that has lost its scripts is given ours, and the row that met this is remembered."""
    await works(cache)
    notes.cache_events.clear()
    row = new_row()
    for node in cluster.masters():
        node.ask("SCRIPT", "FLUSH")
    await cache.put([row], time.monotonic())
    assert await cache.get([row.key]) == [row]
    assert not notes.cache_events


async def test_a_hung_node_costs_one_timeout(
    cluster: RedisCluster, prompt: RedisClusterCache, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first callers of a node that hangs wait for its timeout and miss; the next ones do not wait at all."""
    monkeypatch.setattr(nodes, "REST_S_MIN", 600.0)  # it rests for as long as this test may need to look
    monkeypatch.setattr(nodes, "REST_S_MAX", 600.0)
    rows = [new_row()._replace(key=key_in_slot(slot)) for slot in SPREAD]
    keys = [row.key for row in rows]
    await works(prompt)
    await prompt.put(rows, time.monotonic())
    hung = cluster.master_of(key_text(PREFIX, keys[0]))
    hung.pause()
    answers = await asyncio.gather(*(prompt.get(keys) for _ in range(20)))
    assert all(answer[0] is None for answer in answers)
    assert any(row is not None for row in answers[0]), "the other nodes still answer"
    assert notes.cache_events["error"] >= 20
    # at rest it is not asked: the answer comes without a turn of the event loop, which a coroutine run by hand shows
    asking = prompt.get(keys[:1])
    with pytest.raises(StopIteration) as answered:
        asking.send(None)
    assert answered.value.value == [None]


@pytest.fixture
def masters_for_good(cluster: RedisCluster) -> Iterator[None]:
    """No replica takes the place of its master, however long that is silent: Redis loses writes when one does."""
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-replica-no-failover", "yes")
    yield
    for node in cluster.nodes:
        node.ask("CONFIG", "SET", "cluster-replica-no-failover", "no")


@pytest.mark.usefixtures("masters_for_good")
async def test_what_reaches_a_hung_node_late_changes_nothing(cluster: RedisCluster, prompt: RedisClusterCache) -> None:
    """A fill that a node takes up when it goes on, long after everybody gave it up, replaces no newer version."""
    one = new_row()
    two = next_version(one)
    slow = cluster.master_of(key_text(PREFIX, one.key))
    slow.pause()
    await prompt.put([one], time.monotonic())
    slow.resume()
    await works(prompt)

    async def put_two() -> object:
        await prompt.put([two], time.monotonic())
        return await prompt.get([one.key])

    await until(put_two, lambda answer: answer == [two])
    await prompt.put([one], time.monotonic())

    async def found() -> object:
        return await prompt.get([one.key])

    # a miss, on a busy machine, says nothing
    assert await until(found, lambda answer: answer != [None]) == [two]


async def test_a_cluster_that_is_away_at_first_is_found_later(cluster: RedisCluster, notes: Notes) -> None:
    """Opening while no node is there succeeds and remembers nothing, until the nodes come."""
    for node in cluster.nodes:
        node.kill()
    cache = await RedisClusterCache.open(cluster.prompt, notes, ttl_s=600, prefix=PREFIX)
    row = new_row()
    await cache.put([row], time.monotonic())
    assert await cache.get([row.key]) == [None]
    assert notes.cache_events == {"error": 2}
    cluster.revive()
    await works(cache)
    await cache.close()


def kill_a_master(cluster: RedisCluster) -> None:
    """Ends a master."""
    random.choice(cluster.masters()).kill()


def fail_over(cluster: RedisCluster) -> None:
    """Makes masters of all replicas."""
    masters = cluster.masters()
    for node in cluster.nodes:
        if node not in masters:
            node.ask("CLUSTER", "FAILOVER", "TAKEOVER")


def hang(cluster: RedisCluster) -> None:
    """Stops a master where it stands."""
    random.choice(cluster.masters()).pause()


@pytest.mark.parametrize(
    ("strike", "near_rows"), [(kill_a_master, 0), (fail_over, 40), (RedisCluster.flush, 0), (hang, 40)]
)
@pytest.mark.torture
async def test_no_wrong_answer_and_no_failed_call(
    cluster: RedisCluster, strike: Callable[[RedisCluster], None], near_rows: int
) -> None:
    """While Redis is struck and heals no call of two workers fails, nor answers what was replaced there or long ago."""
    truth = SlowStore()
    witness = Witness(ttl_s=TTL_S)
    prefix = f"{strike.__name__}-{near_rows}:"
    faces = [await Face.open(truth, cluster.prompt, ttl_s=TTL_S, near_rows=near_rows, prefix=prefix) for _ in range(2)]
    orders = [await witness.create(faces[0]) for _ in range(60)]
    acknowledged = [dict.fromkeys((order.key for order in orders), 1) for _ in faces]
    over = asyncio.Event()

    async def read(number: int) -> None:
        while not over.is_set():
            order = random.choice(orders)
            least, began = acknowledged[number][order.key], time.monotonic()
            answer = await faces[number].read(order)
            witness.judge(order, answer, began=began, least=least)
            await asyncio.sleep(0)

    async def write(number: int) -> None:
        mine = orders[number::2]
        while not over.is_set():
            order = random.choice(mine)
            await witness.change(faces[number], order)
            acknowledged[number][order.key] = witness.newest(order)
            await asyncio.sleep(0.03)  # sleep: slow enough that an order is read and remembered between two writes

    async def strike_and_heal() -> None:
        try:
            for _ in range(ROUNDS):
                await asyncio.sleep(0.5)  # sleep: calm, so that there is something to lose
                await asyncio.to_thread(strike, cluster)
                await asyncio.sleep(1.0)  # sleep: the time in which it is felt
                cluster.revive()
                await asyncio.to_thread(cluster.wait_whole)
        finally:
            over.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(strike_and_heal())
        for number in range(len(faces)):
            group.create_task(write(number))
            for _ in range(4):
                group.create_task(read(number))
    for face in faces:
        await face.close()
    assert witness.reads > 100
    assert all(face.notes.cache_events["hit"] for face in faces)


async def test_a_thousand_readers_of_a_cold_key_read_the_store_once(cluster: RedisCluster) -> None:
    """However many ask for one key that no cache has, each worker asks its store once."""
    truth = MemoryStore()
    row = new_row()
    truth.apply([row])
    face = await Face.open(truth, cluster.access, ttl_s=60, near_rows=100, prefix="cold:")
    answers = await asyncio.gather(*(face.read(row) for _ in range(1_000)))
    assert answers == [row] * 1_000
    assert face.notes.store_calls == [(0, "read", "")]
    await face.close()
    other = await Face.open(truth, cluster.access, ttl_s=60, near_rows=100, prefix="cold:")
    assert await asyncio.gather(*(other.read(row) for _ in range(1_000))) == [row] * 1_000
    assert other.notes.store_calls == [], "the first worker has put it where all find it"
    await other.close()
