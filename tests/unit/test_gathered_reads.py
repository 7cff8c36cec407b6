"""Reads of one row that come together go together, and nobody is answered worse for it."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import Consistency, Row, Unavailable
from shards.keys import Key
from shards.wrappers import gathered
from shards.wrappers.gathered import AT_ONCE_MAX, PATIENCE_S, ROWS_MAX, GatheredStore
from tests.simulation import virtual_time
from tests.support.memory_store import HeldStore, MemoryStore
from tests.support.rows import new_row, next_version

CACHED, STRONG = Consistency.CACHED, Consistency.STRONG


def stored(store: MemoryStore, count: int) -> list[Row]:
    """So many rows, which the store has."""
    rows = [new_row(f"customer {number}") for number in range(count)]
    for row in rows:
        store.apply([row])
    return rows


def ask(store: GatheredStore, rows: Sequence[Row]) -> list[asyncio.Task[Sequence[Row | None]]]:
    """A reader for each row."""
    return [asyncio.create_task(store.read([row.key], CACHED)) for row in rows]


async def test_reads_of_one_turn_go_together() -> None:
    """Readers who come at once share reads of at most ``ROWS_MAX`` rows, and each is answered its own row or none."""
    truth = HeldStore()
    rows = [*stored(truth, ROWS_MAX), new_row("nobody")]
    readers = ask(GatheredStore(truth), rows)
    sizes = []
    for _ in range(2):
        call = await truth.next_call("read")
        sizes.append(len(call.items))
        call.go()
    assert [await reader for reader in readers] == [*([row] for row in rows[:-1]), [None]]
    assert sizes == [ROWS_MAX, 1]


async def test_who_comes_meanwhile_goes_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """While ``AT_ONCE_MAX`` reads of a lane are under way the next ones wait, and go together when one of them ends."""
    monkeypatch.setattr(gathered, "PATIENCE_S", 60)
    truth = HeldStore()
    rows = stored(truth, AT_ONCE_MAX + 3)
    store = GatheredStore(truth)
    readers = []
    first = []
    for row in rows[:AT_ONCE_MAX]:
        readers += ask(store, [row])
        first.append(await truth.next_call("read"))
    readers += ask(store, rows[AT_ONCE_MAX:])
    for _ in range(10):
        await asyncio.sleep(0)
    assert truth.calls.empty()
    first[0].go()
    later = await truth.next_call("read")
    assert later.items == [row.key for row in rows[AT_ONCE_MAX:]]
    later.go()
    first[1].go()
    assert [await reader for reader in readers] == [[row] for row in rows]
    assert "reading=0, waiting=0" in repr(store)


async def test_lanes_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads under way in one lane hold up none of another, and no read names rows of two lanes."""
    monkeypatch.setattr(gathered, "PATIENCE_S", 60)
    truth = HeldStore(lanes=2)
    rows = stored(truth, 40)
    readers = ask(GatheredStore(truth), rows)
    calls = [await truth.next_call("read") for _ in range(2)]
    for call in calls:
        assert len({truth.lane(key) for key in call.items}) == 1
        call.go()
    assert [await reader for reader in readers] == [[row] for row in rows]


async def test_a_failure_is_told_to_each_and_to_nobody_else() -> None:
    """Each reader of a read that failed has an error of its own; later readers are served."""
    truth = HeldStore()
    rows = stored(truth, 3)
    store = GatheredStore(truth)
    readers = ask(store, rows)
    (await truth.next_call("read")).fail(Unavailable("away"))
    errors = await asyncio.gather(*readers, return_exceptions=True)
    assert [(type(error), str(error)) for error in errors] == [(Unavailable, "away")] * 3
    assert len(set(map(id, errors))) == 3
    again = ask(store, rows[:1])
    (await truth.next_call("read")).go()
    assert await again[0] == [rows[0]]


async def test_who_has_left_is_not_read_for() -> None:
    """The row of a reader who left before it was asked for is left out; the others are answered."""
    truth = HeldStore()
    rows = stored(truth, 2)
    readers = ask(GatheredStore(truth), rows)
    await asyncio.sleep(0)
    readers[0].cancel()
    call = await truth.next_call("read")
    assert call.items == [rows[1].key]
    call.go()
    assert await readers[1] == [rows[1]]


async def test_others_pass() -> None:
    """A STRONG read, and one of many rows, is the caller's own."""
    truth = HeldStore()
    rows = stored(truth, 2)
    store = GatheredStore(truth)
    strong = [asyncio.create_task(store.read([row.key], STRONG)) for row in rows]
    many = asyncio.create_task(store.read([row.key for row in rows], CACHED))
    calls = [await truth.next_call("read") for _ in range(3)]
    assert [len(call.items) for call in calls] == [1, 1, 2]
    for call in calls:
        call.go()
    assert [await reader for reader in strong] == [[row] for row in rows]
    assert await many == rows


class _Slow(MemoryStore):
    """Answers what is there when a read begins, after as long as the test says; -1: never."""

    def __init__(self, pauses_s: Sequence[float]) -> None:
        super().__init__()
        self._pauses_s = pauses_s
        self.reads = 0
        self.most = 0
        self._under_way = 0

    async def read(self, keys: Sequence[Key], consistency: Consistency) -> Sequence[Row | None]:
        """The rows as they were."""
        pause_s = self._pauses_s[self.reads % len(self._pauses_s)]
        self.reads += 1
        self._under_way += 1
        self.most = max(self.most, len(keys))
        rows = await super().read(keys, consistency)
        await asyncio.sleep(pause_s if pause_s >= 0 else 1e6)  # sleep: simulated, this is the store's work
        self._under_way -= 1
        return rows


@given(
    pauses_s=st.lists(st.sampled_from((0.0, 0.001, 0.01, 0.1, -1.0)), min_size=1, max_size=8),
    readers=st.lists(st.tuples(st.integers(0, 4), st.sampled_from((0.0, 0.0, 0.001, 0.03))), min_size=1, max_size=40),
)
def test_nobody_waits_for_a_lost_read_or_is_answered_older_than_the_call(
    pauses_s: list[float], readers: list[tuple[int, float]]
) -> None:
    """Whatever reads take, each is answered what was there when its caller came or later, and soon unless its own read
    is lost: ``PATIENCE_S`` late at most.
    """

    async def scene() -> None:
        truth = _Slow(pauses_s)
        rows = [new_row(f"customer {number}") for number in range(5)]
        for row in rows:
            truth.apply([row])
        store = GatheredStore(truth)
        loop = asyncio.get_running_loop()

        async def one(key: Key, version: int, came_s: float) -> None:
            try:
                async with asyncio.timeout(50):
                    (found,) = await store.read([key], CACHED)
            except TimeoutError:
                assert -1.0 in pauses_s
                return
            assert found is not None
            assert found.version >= version
            assert loop.time() - came_s <= PATIENCE_S + max(pauses_s) + 1e-6

        tasks = []
        for number, pause_s in readers:
            await asyncio.sleep(pause_s)  # sleep: simulated
            present = truth.rows[rows[number].key]
            if present.version < 5:
                present = next_version(present)
                truth.apply([present])
            tasks.append(asyncio.create_task(one(present.key, present.version, loop.time())))
        await asyncio.gather(*tasks)
        assert truth.most <= ROWS_MAX
        for task in list(store._reading):
            task.cancel()

    virtual_time.run(scene())
