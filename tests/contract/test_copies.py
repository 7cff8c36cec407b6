"""The law of copies (``shards.contract.Copies``), held against every store that movers can copy from and to."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shards.contract import BUCKET_S, PLACED_MAX, Consistency, Copies, Invalid, Outcome, Row, Store, Verdict
from shards.keys import bucket_of, mint_uuid7, time_ms_of
from tests.contract.subjects import SHARDS
from tests.support.rows import new_row, next_version

STRONG = Consistency.STRONG
GEN = 7
"""The gen of the copies."""


@pytest_asyncio.fixture(params=sorted(SHARDS))
async def shard(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Copies]]:
    """An empty shard as a worker and as a mover have it."""
    truth = SHARDS[request.param]()
    yield await truth.face(), await truth.copies()
    await truth.close()


@pytest.fixture
def store(shard: tuple[Store, Copies]) -> Store:
    """The shard as a worker has it."""
    return shard[0]


@pytest.fixture
def copies(shard: tuple[Store, Copies]) -> Copies:
    """The shard as a mover has it."""
    return shard[1]


def copied(row: Row, gen: int = GEN) -> Row:
    """The row under the gen of the copies."""
    return row._replace(key=row.key._replace(gen=gen))


def old_row(customer: str, years: float, body: bytes = b"body") -> Row:
    """An order whose request was made so many years ago, or is yet to be made."""
    day_ms = 86_400_000
    return new_row(customer, body=body, request_id=mint_uuid7(time_ms_of(mint_uuid7()) - round(years * 365 * day_ms)))


async def test_what_is_placed_is_there(store: Store, copies: Copies) -> None:
    """Rows of many customers, ages and versions are placed with their marks and bodies, and are read and listed."""
    source = random.Random(1)
    rows = [old_row(f"customer {n % 40}", n / 30, source.randbytes(n)) for n in range(150)]
    rows = [next_version(next_version(row), body=row.body) if n % 3 else row for n, row in enumerate(rows)]
    placed = [copied(row) for row in rows]
    await copies.place(placed, {})
    assert await copies.rows([row.key for row in placed]) == placed
    assert await store.read([row.key for row in placed], STRONG) == placed
    for customer in {row.customer for row in placed}:
        of = sorted((row for row in placed if row.customer == customer), key=lambda row: row.key.order_id)
        assert await store.list_customer(customer, *of[0].key[:3], None, 100) == of[::-1]
    by_slot: dict[int, dict[bytes, int]] = {}
    for row in placed:
        by_slot.setdefault(row.key.slot, {})[row.key.order_id] = row.version
    for slot, versions in by_slot.items():
        assert await copies.versions({slot: GEN}) == {slot: versions}
        assert await copies.versions({slot: GEN - 1}) == {slot: {}}
    assert await copies.versions(dict.fromkeys(by_slot, GEN)) == by_slot
    odd = {slot: GEN - slot % 2 for slot in by_slot}
    assert await copies.versions(odd) == {slot: by_slot[slot] if gen == GEN else {} for slot, gen in odd.items()}


async def test_placing_never_goes_back(store: Store, copies: Copies) -> None:
    """A copy replaces a lower version only, whatever the mover believed to be there, and late repeats do nothing."""
    first = copied(new_row())
    third = next_version(next_version(first), body=b"third")
    second = next_version(first, body=b"rival")
    await copies.place([first], {})
    await copies.place([third], {first.key.order_id: 1})
    for known in ({}, {first.key.order_id: 1}, {first.key.order_id: 2}, {first.key.order_id: 9}):
        await copies.place([second], known)
        await copies.place([first], known)
        await copies.place([third._replace(body=b"another third")], known)
        assert await copies.rows([first.key]) == [third]
    fifth = next_version(next_version(third), body=b"fifth")
    await copies.place([fifth], {})
    assert await store.read([first.key], STRONG) == [fifth]
    absent = copied(new_row("absent"))
    await copies.place([absent], {absent.key.order_id: 3})
    assert await copies.rows([absent.key]) in ([absent], [None])


async def test_copies_race_without_harm(store: Store, copies: Copies) -> None:
    """Whole placements of several versions made at once and again leave the highest of each order."""
    orders = [[copied(new_row(f"customer {n}"))] for n in range(30)]
    for versions in orders:
        for _ in range(3):
            versions.append(next_version(versions[-1], body=b"v%d" % len(versions)))
    await asyncio.gather(*(copies.place([versions[n] for versions in orders], {}) for n in (0, 2, 1, 3, 3, 0)))
    highest = [versions[-1] for versions in orders]
    assert await store.read([row.key for row in highest], STRONG) == highest


async def test_a_copy_is_a_row_like_any_other(store: Store, copies: Copies) -> None:
    """A request that comes again finds its copy, and the next version goes on from it; then no copy undoes that."""
    row = copied(new_row())
    await copies.place([row], {})
    assert await store.commit([row]) == [Outcome(Verdict.CLASH, row)]
    following = next_version(row)
    (outcome,) = await store.commit([following])
    assert outcome.verdict is Verdict.APPLIED
    await copies.place([row], {})
    assert await store.read([row.key], STRONG) == [following]


async def test_what_was_acknowledged_is_seen(store: Store, copies: Copies) -> None:
    """A mover sees each create and transition as soon as it is acknowledged."""
    row = new_row()
    slot = row.key.slot
    await store.commit([row])
    assert await copies.versions({slot: 0}) == {slot: {row.key.order_id: 1}}
    row = next_version(row)
    await store.commit([row])
    assert await copies.versions({slot: 0}) == {slot: {row.key.order_id: 2}}
    assert await copies.rows([row.key, copied(row).key]) == [row, None]


async def test_seals_are_told_and_repeated_and_hinder_no_copy(store: Store, copies: Copies) -> None:
    """Sealed buckets are told, from the one asked for on; sealing them closes them; copies go in all the same."""
    now, old = new_row("now"), old_row("now", 2)
    slot, recent = now.key.slot, bucket_of(now.key.order_id, BUCKET_S)
    ancient = bucket_of(old.key.order_id, BUCKET_S)
    assert await copies.sealed(slot, 0) == set()
    await store.seal(now.key)
    await copies.seal(slot, {ancient, ancient - 1})
    await copies.seal(slot, {ancient})
    assert await copies.sealed(slot, 0) == {recent, ancient, ancient - 1}
    assert await copies.sealed(slot, recent) == {recent}
    assert [outcome.verdict for outcome in await store.commit([old])] == [Verdict.SEALED]
    await copies.place([copied(now), copied(old)], {})
    assert await copies.rows([copied(now).key, copied(old).key]) == [copied(now), copied(old)]
    assert copies.seals_together(slot) == copies.seals_together(slot)


async def test_dropping_takes_one_gen_of_one_slot(store: Store, copies: Copies) -> None:
    """A drop leaves no row, no version and no list entry of that slot and gen, and touches no other."""
    mine = [old_row("mine", n) for n in range(4)]
    other = [old_row("other", n) for n in range(3)]
    slot = mine[0].key.slot
    assert slot != other[0].key.slot
    await copies.place([copied(row) for row in mine + other], {})
    await copies.place([copied(row, GEN + 1) for row in mine], {})
    assert {(slot, GEN), (slot, GEN + 1), (other[0].key.slot, GEN)} <= await copies.present()
    await copies.drop(slot, GEN)
    await copies.drop(slot, GEN)
    assert await copies.versions({slot: GEN}) == {slot: {}}
    assert await store.list_customer("mine", *copied(mine[0]).key[:3], None, 10) == []
    assert (slot, GEN) not in await copies.present()
    told = await copies.versions({slot: GEN + 1, other[0].key.slot: GEN})
    assert [len(versions) for versions in told.values()] == [len(mine), len(other)]


async def test_sizes_are_those_of_the_asked_gens(copies: Copies) -> None:
    """Rows are counted exactly, under the gen asked for alone; bodies of one size are added up exactly."""
    rows = [copied(new_row("one", body=bytes(100))) for _ in range(5)]
    elsewhere = copied(rows[0], GEN + 1)
    await copies.place([*rows, elsewhere], {})
    slot = rows[0].key.slot
    empty = (slot + 1) % 4096
    sizes = await copies.sizes({slot: GEN, empty: GEN})
    assert sizes[slot] == (5, 5 * 132)
    assert sizes[empty] == (0, 0)


async def test_too_many_rows_are_refused(copies: Copies) -> None:
    """More rows than one call may place are refused, and none is placed."""
    row = copied(new_row())
    with pytest.raises(Invalid):
        await copies.place([row] * (PLACED_MAX + 1), {})
    assert await copies.rows([row.key]) == [None]
