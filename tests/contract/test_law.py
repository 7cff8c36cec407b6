"""The law of stores (``shards.contract``), held against every store and wrapper."""

import asyncio
import random
from collections import Counter
from collections.abc import Hashable, Sequence

import pytest

from shards.contract import BUCKET_S, MARK_BYTES, Consistency, Invalid, Outcome, Row, Store, Verdict
from shards.keys import mint_uuid7
from tests.support.rows import new_row, next_version

STRONG = Consistency.STRONG
LANES_MAX = 16
"""No store of the suite has more lanes at a time."""
CACHED = Consistency.CACHED


def verdicts(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """What became of each row."""
    return [outcome.verdict for outcome in outcomes]


async def settle(store: Store, rows: Sequence[Row]) -> list[Outcome]:
    """Commits, each lane by itself, until no row is deferred; returns the outcomes in the order of the rows."""
    fate: dict[Row, Outcome] = {}
    rest = list(rows)
    for _ in range(len(rows) + 1):
        lanes: dict[Hashable, list[Row]] = {}
        for row in rest:
            lanes.setdefault(store.lane(row.key), []).append(row)
        for together in lanes.values():
            fate.update(zip(together, await store.commit(together), strict=True))
        rest = [row for row in rest if fate[row].verdict is Verdict.DEFERRED]
        if not rest:
            return [fate[row] for row in rows]
    raise AssertionError(f"{len(rest)} rows are deferred for ever")


def rows_of_one_lane(store: Store, count: int) -> list[Row]:
    """New orders of as many customers, which may be committed together."""
    rows: list[Row] = []
    number = 0
    while len(rows) < count:
        row = new_row(f"customer {number}", body=bytes([number % 256]) * 30)
        number += 1
        if not rows or store.lane(row.key) == store.lane(rows[0].key):
            rows.append(row)
        elif number > count * LANES_MAX:
            rows.clear()  # time has passed into the next bucket: that lane gets no new orders
            number = 0
    return rows


def with_gen(row: Row, gen: int) -> Row:
    """The same order in another placement of its slot."""
    return row._replace(key=row.key._replace(gen=gen))


# ---------------------------------------------------------------------------------------- law 1: writes are conditional


async def test_first_version_is_stored_once(store: Store, other: Store) -> None:
    """A second create of the same order is refused and learns the row that is there."""
    first = new_row(body=b"first")
    second = first._replace(body=b"second")
    assert verdicts(await store.commit([first])) == [Verdict.APPLIED]
    assert await other.commit([second]) == [Outcome(Verdict.CLASH, first)]
    assert await other.commit([first]) == [Outcome(Verdict.CLASH, first)]
    assert await store.read([first.key], STRONG) == [first]


async def test_each_version_replaces_the_one_before(store: Store, other: Store) -> None:
    """Version v replaces v - 1 and nothing else; whoever comes late or early learns the present row."""
    first = new_row()
    second = next_version(first, body=b"second")
    third = next_version(second, body=b"third")
    assert await store.commit([second]) == [Outcome(Verdict.CLASH)]
    await store.commit([first])
    assert await store.commit([third]) == [Outcome(Verdict.CLASH, first)]
    assert verdicts(await other.commit([second])) == [Verdict.APPLIED]
    rival = next_version(first, body=b"rival")
    assert await store.commit([rival]) == [Outcome(Verdict.CLASH, second)]
    assert verdicts(await store.commit([third])) == [Verdict.APPLIED]
    assert await other.read([first.key], STRONG) == [third]


async def test_absent_row_has_no_second_version(store: Store) -> None:
    """A later version of an order that does not exist is refused, with nothing to show, and leaves nothing."""
    orphan = next_version(new_row())
    assert await store.commit([orphan]) == [Outcome(Verdict.CLASH)]
    assert await store.read([orphan.key], STRONG) == [None]


async def test_one_winner_among_racers(store: Store, other: Store) -> None:
    """Of many writers who race to make the same version exactly one wins, and all others learn its row."""
    first = new_row()
    creates = [first._replace(body=b"create %d" % n) for n in range(8)]
    outcomes = await asyncio.gather(*(settle((store, other)[n % 2], [row]) for n, row in enumerate(creates)))
    won = [row for row, (outcome,) in zip(creates, outcomes, strict=True) if outcome.verdict is Verdict.APPLIED]
    assert len(won) == 1
    assert {outcome.present for (outcome,) in outcomes if outcome.verdict is Verdict.CLASH} == {won[0]}
    updates = [next_version(won[0], body=b"update %d" % n) for n in range(8)]
    outcomes = await asyncio.gather(*(settle((store, other)[n % 2], [row]) for n, row in enumerate(updates)))
    tally = Counter(outcome.verdict for (outcome,) in outcomes)
    assert tally == {Verdict.APPLIED: 1, Verdict.CLASH: 7}


# ------------------------------------------------------------------------------- laws 2 and 3: durable, and never half


async def test_rows_of_one_commit_fare_by_themselves(store: Store) -> None:
    """A refused row keeps no other row of its commit from being stored."""
    there, absent = new_row(), next_version(new_row())
    await store.commit([there])
    update = next_version(there)
    stale = there._replace(body=b"again")
    new = [new_row(f"customer {n}") for n in range(5)]
    outcomes = await settle(store, [new[0], absent, *new[1:3], update, *new[3:]])
    assert verdicts(outcomes) == [Verdict.APPLIED, Verdict.CLASH, *[Verdict.APPLIED] * 5]
    assert await settle(store, [stale, new_row()]) == [Outcome(Verdict.CLASH, update), Outcome(Verdict.APPLIED)]
    assert await store.read([row.key for row in new], STRONG) == new


async def test_applied_outlives_the_store(store: Store, other: Store) -> None:
    """What one store acknowledged another one reads, after the first is closed."""
    rows = rows_of_one_lane(store, 20)
    assert set(verdicts(await store.commit(rows))) == {Verdict.APPLIED}
    await store.close()
    assert await other.read([row.key for row in rows], STRONG) == rows


@pytest.mark.parametrize("size", [0, 1, 1_000, 4_096, 33_000])
async def test_bytes_come_back_as_they_went_in(store: Store, size: int) -> None:
    """Bodies of any size and bytes, marks of many versions and customers of any script come back unchanged."""
    source = random.Random(size)
    row = new_row("Zoë \N{SNOWMAN}\N{GRINNING FACE}'\"%", body=source.randbytes(size))
    await store.commit([row])
    for _ in range(8):
        row = next_version(row, body=source.randbytes(size))._replace(marks=row.marks + source.randbytes(MARK_BYTES))
        assert verdicts(await store.commit([row])) == [Verdict.APPLIED]
    assert await store.read([row.key], STRONG) == [row]
    assert await store.list_customer(row.customer, *row.key[:3], None, 10) == [row]


async def test_full_commit_is_taken(store: Store) -> None:
    """As many rows as the limits allow go into one commit."""
    rows = rows_of_one_lane(store, store.limits.rows_max)
    assert set(verdicts(await store.commit(rows))) == {Verdict.APPLIED}
    assert await store.read([row.key for row in rows], STRONG) == rows


# ----------------------------------------------------------------------------------------- law 4: failures are honest


async def test_cancelled_caller_harms_nobody(store: Store) -> None:
    """After a caller is cancelled its row is there wholly or not at all, and the next commit is unaffected."""
    row, following = new_row(), new_row("next")
    task = asyncio.ensure_future(store.commit([row]))
    await asyncio.sleep(0)  # sleep: one turn of the loop, so that the call is under way
    task.cancel()
    await asyncio.wait([task])
    assert verdicts(await store.commit([following])) == [Verdict.APPLIED]
    (found,) = await store.read([row.key], STRONG)
    assert found in {row, None}
    (outcome,) = await store.commit([row])
    assert outcome == Outcome(Verdict.APPLIED if found is None else Verdict.CLASH, found)


# --------------------------------------------------------------------------------------------- law 5: reads


async def test_reads_keep_the_order_of_their_keys(store: Store) -> None:
    """A read answers each key in its place: None for what is absent, twice for what is asked twice."""
    one, two, absent = new_row("one"), new_row("two"), new_row("absent")
    await settle(store, [one, two])
    keys = [two.key, absent.key, one.key, two.key]
    for consistency in Consistency:
        assert await store.read(keys, consistency) == [two, None, one, two]


async def test_acknowledged_row_is_never_missing(store: Store, other: Store) -> None:
    """A row that one store acknowledged is found by another at once, by either consistency, absent before or not."""
    for n in range(20):
        row = new_row(f"customer {n}")
        assert await other.read([row.key], CACHED) == [None]
        await store.commit([row])
        assert await other.read([row.key], CACHED if n % 2 else STRONG) == [row]


async def test_strong_read_is_current(store: Store, other: Store) -> None:
    """A STRONG read shows the newest acknowledged version, whoever wrote it and whatever was read before."""
    row = new_row()
    await store.commit([row])
    for n in range(20):
        assert await other.read([row.key], CACHED) != [None]
        row = next_version(row, body=b"%d" % n)
        assert verdicts(await store.commit([row])) == [Verdict.APPLIED]
        assert await other.read([row.key], STRONG) == [row]


async def test_reads_beside_writes_never_go_back(store: Store, other: Store) -> None:
    """While one store raises a version, the STRONG reads of another see versions that never fall."""
    row = new_row()
    await store.commit([row])
    seen: list[int] = []

    async def watch() -> None:
        while not seen or seen[-1] < 30:
            (found,) = await other.read([row.key], STRONG)
            assert found is not None
            seen.append(found.version)
            await asyncio.sleep(0)  # sleep: a store that never waits gives others no turn

    watching = asyncio.create_task(watch())
    version = row
    for _ in range(29):
        version = next_version(version)
        await store.commit([version])
        await asyncio.sleep(0)  # sleep: as above
    await watching
    assert seen == sorted(seen)


# ---------------------------------------------------------------------------------------------- law 6: sealing


def old_request_id(age_buckets: int) -> bytes:
    """A request id minted so many buckets ago."""
    now_ms = int.from_bytes(mint_uuid7()[:6], "big")
    return mint_uuid7(now_ms - age_buckets * BUCKET_S * 1000)


async def test_sealed_bucket_takes_no_new_order(store: Store, other: Store) -> None:
    """After a seal no store creates an order of that bucket, while other buckets and later versions go on."""
    there = new_row("there", request_id=old_request_id(9))
    late = new_row("late", request_id=old_request_id(9))
    later = new_row("later", request_id=old_request_id(3))
    await store.commit([there])
    await store.seal(late.key)
    await other.seal(late.key)
    for face in (store, other):
        assert await face.commit([late]) == [Outcome(Verdict.SEALED)]
        assert await face.commit([there]) == [Outcome(Verdict.CLASH, there)]
    rows = [late, next_version(there), later, next_version(new_row("none", request_id=old_request_id(9)))]
    assert verdicts(await settle(other, rows)) == [
        Verdict.SEALED,
        Verdict.APPLIED,
        Verdict.APPLIED,
        Verdict.CLASH,
    ]
    assert await store.read([late.key], STRONG) == [None]


async def test_seal_settles_a_race(store: Store, other: Store) -> None:
    """What a seal finds unwritten stays so: a create that races with it wins and is found, or never is."""
    for age in range(2, 12):
        row = new_row(request_id=old_request_id(age))
        (outcome,), _ = await asyncio.gather(settle(store, [row]), other.seal(row.key))
        (found,) = await other.read([row.key], STRONG)
        assert (outcome.verdict, found) in {(Verdict.APPLIED, row), (Verdict.SEALED, None)}


# --------------------------------------------------------------------------------------- placement and listing


async def test_gens_are_worlds_apart(store: Store) -> None:
    """Rows of a slot's earlier stay are neither read nor listed nor in the way, on the way back either."""
    row = new_row()
    for gen in (0, 2, 4):
        placed = with_gen(row, gen)._replace(body=b"gen %d" % gen)
        assert verdicts(await store.commit([placed])) == [Verdict.APPLIED]
        assert await store.read([placed.key, with_gen(row, gen + 1).key], STRONG) == [placed, None]
        assert await store.list_customer(row.customer, row.key.slot, gen, row.key.tag, None, 10) == [placed]
    second = next_version(with_gen(row, 0)._replace(body=b"gen 0"))
    assert verdicts(await store.commit([second])) == [Verdict.APPLIED]
    assert await store.read([with_gen(row, 2).key], STRONG) == [with_gen(row, 2)._replace(body=b"gen 2")]


async def test_customers_are_listed_by_pages(store: Store, other: Store) -> None:
    """Pages of any size hold each order of the customer once, newest first, and none of who shares slot and tag."""
    now_ms = int.from_bytes(mint_uuid7()[:6], "big")
    rows = [new_row("shopper", request_id=mint_uuid7(now_ms - n)) for n in range(25)]
    # a neighbour of equal slot and tag: the same ids but for their last bytes
    neighbours = []
    for row in rows[:10]:
        key = row.key._replace(order_id=row.key.order_id[:15] + bytes([row.key.order_id[15] ^ 1]))
        neighbours.append(row._replace(key=key, customer="neighbour"))
    await settle(store, [*rows[::2], *neighbours])
    await settle(other, rows[1::2])
    newest_first = sorted(rows, key=lambda row: row.key.order_id, reverse=True)
    for size in (1, 7, 25, 26):
        listed: list[Row] = []
        while True:
            before = listed[-1].key.order_id if listed else None
            page = await store.list_customer("shopper", *rows[0].key[:3], before, size)
            assert len(page) <= size
            listed += page
            if len(page) < size:
                break
        assert listed == newest_first
    assert await store.list_customer("nobody", *rows[0].key[:3], None, 10) == []


async def test_listing_reads_your_writes(store: Store, other: Store) -> None:
    """An acknowledged order and an acknowledged version are in the very next list, through any store."""
    row = new_row()
    await store.commit([row])
    assert await other.list_customer(row.customer, *row.key[:3], None, 10) == [row]
    later = next_version(row)
    await other.commit([later])
    assert await store.list_customer(row.customer, *row.key[:3], None, 10) == [later]


async def test_close_can_be_repeated(store: Store) -> None:
    """Closing twice is closing once."""
    await store.close()
    await store.close()


async def test_poison_row_names_itself(store: Store) -> None:
    """A row that a store can never take is Invalid, alone or in company, and then nothing of its commit is kept."""
    good, bad = rows_of_one_lane(store, 2)
    poison = bad._replace(customer="\ud800")
    try:
        outcomes = await store.commit([good, poison])
    except Invalid:
        assert await store.read([good.key], STRONG) == [None]
        with pytest.raises(Invalid):
            await store.commit([poison])
        outcomes = await store.commit([good])
    assert outcomes[0].verdict is Verdict.APPLIED
