"""What every cache promises, whatever it is kept in."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import hypothesis.strategies as st
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from shards.contract import Cache, Row
from tests.contract.caches import CACHES, TTL_S
from tests.support.redis_nodes import RedisCluster, redis_cluster
from tests.support.rows import key_in_slot, new_row, next_version
from tests.support.waiting import until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One Redis Cluster for all tests here."""
    with redis_cluster(tmp_path_factory.mktemp("redis"), 26_701) as made:
        yield made


@pytest_asyncio.fixture(params=sorted(CACHES))
async def cache(request: pytest.FixtureRequest, cluster: RedisCluster) -> AsyncIterator[Cache]:
    """A cache of each kind."""
    cache = await CACHES[request.param](cluster)
    yield cache
    await cache.close()


async def get(cache: Cache, *rows: Row) -> Sequence[Row | None]:
    """What the cache has under the keys of these rows."""
    return await cache.get([row.key for row in rows])


def chain(versions: int, body: bytes = b"body") -> list[Row]:
    """All versions of a new order."""
    rows = [new_row(body=body)]
    while len(rows) < versions:
        rows.append(next_version(rows[-1], body=body * len(rows)))
    return rows


async def test_a_remembered_row_is_answered(cache: Cache) -> None:
    """What was put is found under its key, in the order asked for; another order, or gen, is a miss."""
    one, two, other = new_row(), new_row("another"), new_row()
    await cache.put([one, two], time.monotonic())
    moved = one._replace(key=one.key._replace(gen=1))
    assert await get(cache, two, other, one, moved, two) == [two, None, one, None, two]


async def test_many_rows_in_all_slots(cache: Cache) -> None:
    """A call may ask for rows that live in many places."""
    rows = [new_row()._replace(key=key_in_slot(slot)) for slot in range(0, 4096, 16)]
    await cache.put(rows, time.monotonic())
    # a layered cache may still be on its way to its far one
    await until(lambda: get(cache, *rows), lambda answer: list(answer) == rows)
    assert await cache.get([]) == []


async def test_rows_come_back_whole(cache: Cache) -> None:
    """Customer, marks and body are as they were, for any text and bytes."""
    row = new_row("Zoë \U0001f6d2\0", body=bytes(range(256)))
    await cache.put([row], time.monotonic())
    assert await get(cache, row) == [row]


async def test_lifetime_counts_from_the_start_of_the_read(cache: Cache) -> None:
    """A row is forgotten a lifetime after the read that found it began, however long that read took."""
    young, old = new_row(), new_row()
    await cache.put([young], time.monotonic() - TTL_S * 0.5)
    await cache.put([old], time.monotonic() - TTL_S - 0.001)
    assert await get(cache, young, old) == [young, None]


async def test_only_a_newer_version_replaces(cache: Cache) -> None:
    """An older version never takes the place of a newer one, though its read began later."""
    one, two, three = chain(3)
    now = time.monotonic()
    await cache.put([two], now - 10)
    await cache.put([one], now)
    assert await get(cache, one) == [two]
    await cache.put([three], now - 20)
    assert await get(cache, one) == [three]


async def test_what_was_created_never_hides_what_came_after(cache: Cache) -> None:
    """A new order is answered whole or not at all, and its later versions are remembered as if it had not been told."""
    first, second = chain(2)
    await cache.created([first], time.monotonic())
    assert (await get(cache, first))[0] in (None, first)
    await cache.put([second], time.monotonic())
    await until(lambda: get(cache, second), lambda answer: list(answer) == [second])
    await cache.created([first], time.monotonic())  # told late
    assert await get(cache, second) == [second]


async def test_the_same_version_lives_on_when_read_again(cache: Cache) -> None:
    """A version that a later read found is known to have been current then; one that an earlier read found is not."""
    row = new_row()
    now = time.monotonic()
    await cache.put([row], now - TTL_S - 1)
    await cache.put([row], now)
    await cache.put([row], now - TTL_S - 1)
    assert await get(cache, row) == [row]


async def test_a_row_too_large_is_no_older_row(cache: Cache) -> None:
    """A version that is too large to be remembered is a miss, or itself, and not the one before."""
    one = new_row()
    large = next_version(one, body=b"." * (1 << 20))
    await cache.put([one], time.monotonic())
    await cache.put([large], time.monotonic())
    assert (await get(cache, one))[0] in {None, large}
    await cache.put([one], time.monotonic())
    assert (await get(cache, one))[0] in {None, large}


async def test_an_expired_version_still_refuses_older_ones(cache: Cache) -> None:
    """A fill that was on its way while its order changed is refused, or answered if at all as the older read it is."""
    one, two = chain(2)
    now = time.monotonic()
    await cache.put([two], now - TTL_S - 1)
    await cache.put([one], now - TTL_S + 0.001)
    assert await get(cache, one) == [None]


async def test_closing_twice_is_once(cache: Cache) -> None:
    """A closed cache answers nothing, and may be closed again."""
    row = new_row()
    await cache.put([row], time.monotonic())
    await cache.close()
    await cache.close()
    assert await get(cache, row) == [None]


# Reads of four orders that began so many seconds ago; each order changed every 100 s, so the age gives the version.
steps = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 399)), min_size=1, max_size=25)


@given(steps)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_it_never_goes_back_nor_answers_what_is_old(cache: Cache, puts: list[tuple[int, int]]) -> None:
    """Whatever is put in whatever order, a key's version never falls, and no row is older than its lifetime."""
    orders = [chain(4) for _ in range(4)]
    newest = dict.fromkeys(range(4), 0)
    latest: dict[tuple[int, int], float] = {}
    for order, age_s in puts:
        version = 4 - age_s // 100
        began = time.monotonic() - age_s
        await cache.put([orders[order][version - 1]], began)
        latest[order, version] = max(began, latest.get((order, version), began))
        rows = await cache.get([versions[0].key for versions in orders])
        for number, row in enumerate(rows):
            if row is None:
                continue
            assert row == orders[number][row.version - 1]
            assert row.version >= newest[number]
            newest[number] = row.version
            assert time.monotonic() - latest[number, row.version] < TTL_S
            assert row.version == max(v for o, v in latest if o == number), "older than what was put"


async def test_readers_and_writers_at_once(cache: Cache) -> None:
    """A row put before a read began is answered by that read, or a newer one, or nothing."""
    versions = chain(40)
    put = 0

    async def write() -> None:
        nonlocal put
        for row in versions:
            await cache.put([row], time.monotonic())
            put = row.version
            await asyncio.sleep(0)

    async def read() -> None:
        while put < len(versions):
            least = put
            [row] = await get(cache, versions[0])
            assert row is None or row.version >= least
            await asyncio.sleep(0)

    await asyncio.gather(write(), *(read() for _ in range(10)))
