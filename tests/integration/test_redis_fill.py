"""The script that remembers rows in Redis, against a model of its rule, on a real node."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from shards.caches.redis_cluster import entries
from shards.caches.redis_cluster.cache import _SCRIPT
from shards.caches.redis_cluster.wire import Reply, Wire, connect
from shards.contract import MARK_BYTES, Row
from shards.keys import Key
from tests.support.redis_nodes import RedisCluster, redis_cluster

KEEP_MS = b"60000"


class Fill(NamedTuple):
    """One run of the script, in the order of which of two wins."""

    version: int
    is_row: bool
    expires_ms: int

    def entry(self) -> bytes:
        """What is handed to the script; a tombstone's expiry means nothing."""
        row = Row(Key(0, 0, 0, bytes(16)), "customer", bytes(MARK_BYTES) * self.version, b"%d" % self.version)
        return entries.encode(row, 1, self.expires_ms, 1 << 20 if self.is_row else 0)


fills = st.lists(
    st.builds(Fill, st.integers(1, 4), st.booleans(), st.integers(0, 3) | st.integers(0, 1 << 50)),
    min_size=1,
    max_size=12,
)
_numbers = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """One Redis Cluster for all tests here."""
    with redis_cluster(tmp_path_factory.mktemp("redis"), 26_801) as made:
        yield made


@pytest_asyncio.fixture
async def node(cluster: RedisCluster) -> AsyncIterator[Wire]:
    """A connection to the master that has the keys used here."""
    master = cluster.master_of(b"{fills}")
    connection = await connect((master.address, master.port), username=None, password=None, timeout_s=20)
    yield connection
    connection.close()
    await connection.wait_closed()


async def ask(node: Wire, *command: bytes) -> Reply:
    """Returns the reply to one command."""
    [reply] = await node.send([command])
    return reply


async def run(node: Wire, key: bytes, fill: Fill) -> int:
    """Runs the script; returns what it returns."""
    done = await ask(node, b"EVAL", _SCRIPT, b"1", key, fill.entry(), KEEP_MS)
    assert isinstance(done, int)
    return done


def new_key() -> bytes:
    """A key that nothing is under."""
    return b"{fills}:%d" % next(_numbers)


on_a_node = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(fills)
@on_a_node
async def test_it_keeps_the_newest(node: Wire, steps: list[Fill]) -> None:
    """After each run the key holds the highest version, a row before a tombstone, and of rows that read latest."""
    key = new_key()
    held: Fill | None = None
    for fill in steps:
        wins = held is None or (
            (fill.version, fill.is_row) > (held.version, held.is_row) or (fill > held and fill.is_row)
        )
        assert await run(node, key, fill) == wins
        held = fill if wins else held
        assert held is not None
        assert await ask(node, b"GET", key) == held.entry()


@given(fills, st.randoms())
@on_a_node
async def test_order_and_repeats_do_not_matter(node: Wire, steps: list[Fill], chance) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001  # hypothesis hands over a Random of its own kind
    """Runs that are repeated, or arrive in another order, leave the same version, as a row if any of them was one."""
    key, other = new_key(), new_key()
    again = steps + chance.choices(steps, k=5)
    chance.shuffle(again)
    for fill in steps:
        await run(node, key, fill)
    for fill in again:
        await run(node, other, fill)
    one, two = await ask(node, b"GET", key), await ask(node, b"GET", other)
    assert isinstance(one, bytes)
    assert isinstance(two, bytes)
    assert one == two or (one[:4] == two[:4] and entries.is_tombstone(one) and entries.is_tombstone(two))
    assert await run(node, other, chance.choice(again)) == 0


async def test_an_entry_outlives_what_it_refuses(node: Wire) -> None:
    """A key is kept for as long as the caller says, also when its row has expired long ago."""
    key = new_key()
    await run(node, key, Fill(2, True, 5))
    left_ms = await ask(node, b"PTTL", key)
    assert isinstance(left_ms, int)
    assert 0 < left_ms <= 60_000
    assert await run(node, key, Fill(1, True, 1 << 45)) == 0


async def test_runs_at_once_are_one_after_the_other(node: Wire) -> None:
    """Of versions that arrive together the highest stays."""
    key = new_key()
    await asyncio.gather(*(run(node, key, Fill(version, True, 7)) for version in (3, 1, 4, 1, 5, 9, 2, 6)))
    assert await ask(node, b"GET", key) == Fill(9, True, 7).entry()
