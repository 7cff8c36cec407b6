import uuid

import hypothesis.strategies as st
import pytest
from hypothesis import given

from shards import keys

times_ms = st.integers(0, 2**48 - 1)
customers = st.text(min_size=1, max_size=40)
request_ids = times_ms.map(keys.mint_uuid7)


@pytest.mark.parametrize(
    ("customer_id", "slot", "tag"),
    [("customer-1", 3992, 46050), ("00004", 115, 7570), ("Zoë", 465, 33738), ("買家-42", 3110, 3125)],
)
def test_slot_and_tag_are_the_published_ones(customer_id: str, slot: int, tag: int) -> None:
    """The test vectors in the topology proto hold."""
    assert keys.slot_and_tag(customer_id) == (slot, tag)


@given(customers, request_ids, st.integers(0, 9))
def test_an_order_id_is_its_address(customer: str, request_id: bytes, gen: int) -> None:
    """Slot, tag and time can be read from an order id, which is a valid UUIDv7."""
    order_id = keys.order_id_of(customer, request_id)
    slot, tag = keys.slot_and_tag(customer)
    assert keys.key_of(order_id, gen) == (slot, gen, tag, order_id)
    assert keys.slot_of(order_id) == slot
    assert keys.time_ms_of(order_id) == keys.time_ms_of(request_id)
    parsed = uuid.UUID(bytes=order_id)
    assert parsed.variant == uuid.RFC_4122
    assert parsed.version == 7


@given(customers, request_ids, customers, request_ids)
def test_an_order_id_is_the_requests_own(customer: str, request_id: bytes, other: str, other_id: bytes) -> None:
    """A retry computes the same order id; another customer or another request another one."""
    order_id = keys.order_id_of(customer, request_id)
    assert keys.order_id_of(customer, request_id) == order_id
    if (customer, request_id) != (other, other_id):
        assert keys.order_id_of(other, other_id) != order_id


@given(customers, request_ids, request_ids)
def test_orders_of_a_customer_sort_by_time(customer: str, one: bytes, two: bytes) -> None:
    """Order ids sort as the times of their requests do."""
    ids = sorted((one, two), key=lambda request_id: keys.order_id_of(customer, request_id))
    assert keys.time_ms_of(ids[0]) <= keys.time_ms_of(ids[1])


@given(request_ids, st.booleans())
def test_text_round_trips(request_id: bytes, upper: bool) -> None:
    """A UUIDv7 written as text is read back the same, in either case."""
    text = keys.format_uuid(request_id)
    assert text == str(uuid.UUID(bytes=request_id))
    assert keys.parse_uuid7(text.upper() if upper else text) == request_id


@given(st.one_of(st.text(max_size=40), st.uuids(version=4).map(str), st.text("0123456789abcdef-7", min_size=36)))
def test_other_text_is_no_uuid7(text: str) -> None:
    """What is not the hyphenated text of a UUIDv7 is refused, and nothing makes the parser raise."""
    parsed = keys.parse_uuid7(text)
    if parsed is not None:
        assert keys.format_uuid(parsed) == text.lower()
        assert uuid.UUID(text).version == 7


@pytest.mark.parametrize(
    "text", ["0190a5b0-0000-7000-8000-0000000000 0", "0190a5b0-0000-7000-8000-00000000000\uff10", ""]
)
def test_blanks_and_foreign_digits_are_no_uuid7(text: str) -> None:
    """Characters that a lenient parser passes over are refused."""
    assert keys.parse_uuid7(text) is None


@given(times_ms, st.integers(1, 10_000))
def test_a_bucket_holds_its_times(time_ms: int, bucket_s: int) -> None:
    """An id falls into the bucket that its time lies in."""
    bucket = keys.bucket_of(keys.mint_uuid7(time_ms), bucket_s)
    assert bucket * bucket_s * 1000 <= time_ms < (bucket + 1) * bucket_s * 1000


def test_minted_ids_are_of_now_and_differ() -> None:
    """Ids minted one after the other do not repeat, and their times do not go back."""
    minted = [keys.mint_uuid7() for _ in range(1000)]
    assert len(set(minted)) == 1000
    assert keys.time_ms_of(minted[0]) <= keys.time_ms_of(minted[-1])
