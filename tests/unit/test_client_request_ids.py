"""Request ids: their shape, their clock, and those of a seed."""

import datetime as dt
import uuid

import grpc
from hypothesis import given
from hypothesis import strategies as st

from clients import OrderError, RequestIdAhead, RequestIds
from clients.request_ids import uuid7, uuid7_of_seed


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**74 - 1))
def test_uuid7_holds_its_time_and_bits(time_ms: int, bits: int) -> None:
    """Every time and all 74 random bits come back out of a UUID of version 7 and the RFC's variant."""
    made = uuid.UUID(uuid7(time_ms, bits))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == time_ms
    assert (made.int >> 64 & 0xFFF) << 62 | made.int & (1 << 62) - 1 == bits


def test_ids_of_a_seed_are_the_same_again_and_all_different() -> None:
    """A seed gives the same ids whenever it is asked, another for each index and for another seed."""
    first = [uuid7_of_seed(1000, b"s" * 16, i) for i in range(500)]
    assert first == [uuid7_of_seed(1000, b"s" * 16, i) for i in range(500)]
    assert len(set(first) | {uuid7_of_seed(1000, b"t" * 16, 0)}) == 501


def refusal(metadata: dict[str, str]) -> OrderError:
    """A refusal of an id that was ahead."""
    return RequestIdAhead("ahead", code=grpc.StatusCode.INVALID_ARGUMENT, metadata=metadata)


def test_a_wrong_clock_is_corrected_by_the_servers() -> None:
    """After a refusal ids are minted by the server's time, in each notation of RFC 3339."""
    noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    ids = RequestIds(clock_ms=lambda: 5_000)
    for text in ("2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000+00:00", "2026-01-01T13:00:00+01:00"):
        assert ids.learn(refusal({"server_time": text}))
        assert ids.now_ms() == int(noon.timestamp() * 1000)
        assert uuid.UUID(ids.mint()).int >> 80 == int(noon.timestamp() * 1000)


def test_a_refusal_without_a_time_corrects_nothing() -> None:
    """A refusal that names no time, or none that can be read, leaves the clock alone."""
    ids = RequestIds(clock_ms=lambda: 5_000)
    assert not ids.learn(refusal({}))
    assert not ids.learn(refusal({"server_time": "soon"}))
    assert ids.now_ms() == 5_000
