"""Digests of slots: equal where the orders are, and naming those that are not."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import Row
from shards.keys import mint_uuid7
from shards.rebalance.digest import SlotDigest, row_digest
from tests.support.rows import new_row, next_version

ROWS = [
    new_row(f"customer {n}", request_id=mint_uuid7(1_700_000_000_000 + n * 200_000), body=b"%d" % n) for n in range(12)
]


def digest_of(rows: list[Row]) -> SlotDigest:
    """The digest of rows, taken in one after another."""
    digest = SlotDigest()
    for row in rows:
        digest.put(row)
    return digest


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), max_size=40), st.randoms(use_true_random=False))
def test_a_digest_is_that_of_what_is_there_now(changes: list[tuple[int, int]], source: random.Random) -> None:
    """Whatever was put, put again and removed, a digest equals the one of the rows that are left, in any order."""
    digest = SlotDigest()
    there: dict[int, Row] = {}
    for number, versions in changes:
        if versions == 0:
            digest.remove(ROWS[number].key.order_id)
            there.pop(number, None)
            continue
        row = ROWS[number]
        for _ in range(versions - 1):
            row = next_version(row, body=b"later", request_id=bytes(16))
        digest.put(row)
        there[number] = row
    left = list(there.values())
    source.shuffle(left)
    other = digest_of(left)
    assert digest.buckets == other.buckets
    assert digest.differing(other) == []
    assert digest.stale({row.key.order_id: row.version for row in left}) == []
    assert len(digest) == len(left)


@pytest.mark.parametrize("what", ["customer", "marks", "body"])
def test_a_single_bit_makes_a_difference(what: str) -> None:
    """A row of which one bit is another is named, and no other row."""
    rows = [*ROWS]
    changed = rows[5]
    if what == "customer":
        changed = changed._replace(customer=changed.customer + "\0")
    elif what == "marks":
        changed = changed._replace(marks=bytes([changed.marks[0] ^ 1]) + changed.marks[1:])
    else:
        changed = changed._replace(body=bytes([changed.body[0] ^ 1]) + changed.body[1:])
    assert row_digest(changed) != row_digest(rows[5])
    assert digest_of(rows).differing(digest_of([*rows[:5], changed, *rows[6:]])) == [changed.key.order_id]


def test_bytes_do_not_wander_between_fields() -> None:
    """A row whose bytes are the same, split otherwise, has another digest."""
    row = ROWS[0]
    assert row_digest(row._replace(customer="ab", body=b"c")) != row_digest(row._replace(customer="a", body=b"bc"))


def test_a_digest_has_no_gen() -> None:
    """Copies of one order under two gens are the same."""
    assert row_digest(ROWS[0]) == row_digest(ROWS[0]._replace(key=ROWS[0].key._replace(gen=9)))


def test_missing_and_surplus_orders_are_named() -> None:
    """An order that only one side has is named, from either side, and told to be stale."""
    one, other = digest_of(ROWS), digest_of(ROWS[1:])
    assert one.differing(other) == other.differing(one) == [ROWS[0].key.order_id]
    versions = {row.key.order_id: row.version for row in ROWS[1:]}
    assert one.stale(versions) == [ROWS[0].key.order_id]
    assert other.stale(versions | {ROWS[0].key.order_id: 1, ROWS[1].key.order_id: 2}) == [
        ROWS[1].key.order_id,
        ROWS[0].key.order_id,
    ]
