import hypothesis.strategies as st
import pytest
from hypothesis import given

from shards.caches.redis_cluster.entries import Entry, decode, encode, is_tombstone, key_text
from shards.contract import MARK_BYTES, Row
from shards.keys import Key
from tests.support.rows import key_in_slot, new_row, next_version

rows = st.builds(
    lambda customer, versions, body: Row(Key(7, 1, 2, b"o" * 16), customer, bytes(MARK_BYTES) * versions, body),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.integers(1, 20),
    st.binary(max_size=300),
)


@given(rows, st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_entries_come_back(row: Row, began_ms: int, expires_ms: int) -> None:
    """What is encoded is decoded under the same key, with its times."""
    entry = encode(row, began_ms, expires_ms, 1 << 20)
    assert not is_tombstone(entry)
    assert decode(row.key, entry) == Entry(row, began_ms, expires_ms)


@given(st.binary(max_size=200))
def test_strange_bytes_are_no_row(value: bytes) -> None:
    """Bytes that somebody else wrote are refused, or are a row whose version fits its marks."""
    try:
        entry = decode(key_in_slot(3), value)
    except ValueError:
        return
    assert entry is None or entry.row.version == int.from_bytes(value[:4], "big") >= 1


def test_large_rows_become_tombstones() -> None:
    """A row too large, or with too long a customer, leaves only its version."""
    row = next_version(new_row(body=b"." * 50))
    tombstone = encode(row._replace(body=b"." * 5_000), 1, 2, 5_000)
    assert is_tombstone(tombstone)
    assert tombstone[:4] == b"\0\0\0\2"
    assert decode(row.key, tombstone) is None
    assert is_tombstone(encode(row._replace(customer="c" * 70_000), 1, 2, 1 << 20))


def test_keys_of_a_slot_stay_together() -> None:
    """A key names format, slot, gen and order, and only the slot decides where Redis puts it."""
    key = key_in_slot(12)
    assert key_text("shop:", key).decode() == f"shop:1:{{12}}:0:{key.order_id.hex()}"
    assert key_text("shop:", key) != key_text("shop:", key._replace(gen=1))


def test_short_bytes_are_refused() -> None:
    """An entry cut short is no row."""
    row = new_row()
    entry = encode(row, 1, 2, 1 << 20)
    with pytest.raises(ValueError, match="an entry of 40 bytes"):
        decode(row.key, entry[:40])
