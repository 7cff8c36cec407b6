import time
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from shards.caches.local import LocalCache
from shards.contract import Row
from tests.support.rows import new_row, next_version


class Time:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock in place of ``time.monotonic``."""
    return Time(monkeypatch)


def cache_of(rows_max: int = 100, *, bytes_max: int = 1 << 20, chance: float = 0.0) -> LocalCache:
    """A cache with a lifetime of 10 s and no luck."""
    return LocalCache(rows_max=rows_max, bytes_max=bytes_max, ttl_s=10.0, chance=lambda: chance)


async def get(cache: LocalCache, *rows: Row) -> Sequence[Row | None]:
    """What the cache has under the keys of these rows."""
    return await cache.get([row.key for row in rows])


async def test_a_remembered_row_is_answered() -> None:
    """What was put is found under its key, in the order asked for; another key, or gen, is a miss."""
    cache, one, two, other = cache_of(), new_row(), new_row(), new_row()
    await cache.put([one, two], time.monotonic())
    moved = one._replace(key=one.key._replace(gen=1))
    assert await get(cache, two, other, one, moved) == [two, None, one, None]


async def test_lifetime_counts_from_the_start_of_the_read(clock: Time) -> None:
    """A row is forgotten a lifetime after the read that found it began, however long that read took."""
    cache, row = cache_of(), new_row()
    await cache.put([row], clock.now - 4)
    clock.now += 5.9
    assert await get(cache, row) == [row]
    clock.now += 0.2
    assert await get(cache, row) == [None]
    assert repr(cache) == "LocalCache(rows=0/100, bytes=0/1048576)"


async def test_chance_shortens_a_lifetime_only(clock: Time) -> None:
    """Jitter takes away up to a tenth, so no row is older than the lifetime."""
    cache, row = cache_of(chance=1.0), new_row()
    await cache.put([row], clock.now)
    clock.now += 8.9
    assert await get(cache, row) == [row]
    clock.now += 0.2
    assert await get(cache, row) == [None]


async def test_only_a_newer_version_replaces(clock: Time) -> None:
    """An older version never takes the place of a newer one, though its read began later."""
    cache, one = cache_of(), new_row()
    two = next_version(one)
    await cache.put([two], clock.now)
    await cache.put([one], clock.now + 1)
    assert await get(cache, one) == [two]
    three = next_version(two)
    await cache.put([three], clock.now - 1)
    assert await get(cache, one) == [three]


async def test_the_same_version_lives_on_when_read_again(clock: Time) -> None:
    """A version that a later read found is known to have been current then; one that an earlier read found is not."""
    cache, row = cache_of(), new_row()
    await cache.put([row], clock.now)
    await cache.put([row], clock.now + 5)
    await cache.put([row], clock.now + 1)
    clock.now += 14
    assert await get(cache, row) == [row]
    clock.now += 2
    assert await get(cache, row) == [None]


async def test_the_least_recently_used_goes_first() -> None:
    """When there are too many rows the one longest not asked for is forgotten."""
    cache = cache_of(rows_max=3)
    rows = [new_row() for _ in range(4)]
    await cache.put(rows[:3], time.monotonic())
    await get(cache, rows[0])
    await cache.put(rows[3:], time.monotonic())
    assert await get(cache, *rows) == [rows[0], None, rows[2], rows[3]]


async def test_bytes_are_bounded_too() -> None:
    """Large rows push out others before there are too many rows, and one too large for the cache is not kept."""
    cache = cache_of(bytes_max=10_000)
    rows = [new_row(body=b"." * 3000) for _ in range(4)]
    await cache.put(rows, time.monotonic())
    kept = await get(cache, *rows)
    assert kept[:2] == [None, None]
    assert kept[3] == rows[3]
    await cache.put([new_row(body=b"." * 20_000)], time.monotonic())
    assert "rows=0" in repr(cache)


async def test_no_rows_is_off() -> None:
    """A cache of no rows remembers nothing."""
    cache, row = cache_of(rows_max=0), new_row()
    await cache.put([row], time.monotonic())
    assert await get(cache, row) == [None]


async def test_closing_forgets() -> None:
    """A closed cache is empty; closing twice is once."""
    cache, row = cache_of(), new_row()
    await cache.put([row], time.monotonic())
    await cache.close()
    await cache.close()
    assert await get(cache, row) == [None]
    assert "bytes=0/" in repr(cache)


steps = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4), st.floats(0, 30)), max_size=60)


@given(steps)
async def test_it_never_goes_back_nor_over_its_bounds(puts: list[tuple[int, int, float]]) -> None:
    """Whatever is put in whatever order, a key's version never falls while it is remembered, and counts hold."""
    cache = LocalCache(rows_max=4, bytes_max=4_000, ttl_s=1e9)
    versions: list[list[Row]] = []
    for _ in range(8):
        chain = [new_row(body=b"." * 300)]
        for _ in range(3):
            chain.append(next_version(chain[-1]))
        versions.append(chain)
    seen: dict[int, int] = {}
    for order, version, started in puts:
        await cache.put([versions[order][version - 1]], started)
        for number, chain in enumerate(versions):
            [row] = await get(cache, chain[0])
            assert row is None or row.version >= seen.get(number, 0)
            seen[number] = row.version if row is not None else 0
        assert len(cache._entries) <= 4
        assert cache._bytes <= 4_000
    await cache.close()
    assert cache._bytes == 0
