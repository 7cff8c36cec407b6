"""The arithmetic of the benchmark, and what it writes and reads."""

import io
import json
import random
from pathlib import Path

import pytest
from google.protobuf import proto, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from bench import load
from bench.ghz import Call, GhzError, read_report
from bench.profiling import read_samples
from bench.summary import Round, cpu_s_per_1000, errors, joined, measure, percentile, ratio, settled
from protos.orders.v1 import orders_pb2
from shards.keys import parse_uuid7


def a_round(subject: str = "crest", rate: float = 100.0, failed: dict[str, int] | None = None) -> Round:
    """A round with unremarkable figures."""
    cpu_s = {"server": 0.5, "cassandra": 1.5, "generator": 0.25}
    return Round(subject, "closed", 1000, 10.0, rate, 1.0, 2.0, failed or {}, 0, cpu_s, 0.1)


def test_rate_is_of_the_time_when_all_ports_were_loaded() -> None:
    """Calls that ended before the last port began, or after the first port was done, are not counted."""
    early = [Call(float(second), 0.010, "OK") for second in range(11)]
    late = [Call(second + 4.0, 0.030, "OK") for second in range(11)]
    assert measure([early, late]) == (6.0, 2.0, 10.0, 30.0)


def test_failed_calls_are_no_orders() -> None:
    """A call that failed counts neither in the rate nor in the latencies."""
    calls = [Call(0.0, 1.0, "OK"), Call(1.0, 0.002, "OK"), Call(1.5, 9.0, "Unavailable"), Call(2.0, 0.002, "OK")]
    assert measure([calls]) == (2.0, 1.0, 2.0, 2.0)


@pytest.mark.parametrize("calls", [[], [[]], [[], [Call(1.0, 1.0, "OK")]], [[Call(1.0, 1.0, "Unavailable")] * 3]])
def test_nothing_measured_is_zero(calls: list[list[Call]]) -> None:
    """Without answers on every port all figures are zero, and nothing is divided by zero."""
    assert measure(calls) == (0.0, 0.0, 0.0, 0.0)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_percentile_covers_its_share(values: list[float], share: float) -> None:
    """At least the share of the values is not above the percentile, which is one of them, the least such."""
    ordered = sorted(values)
    found = percentile(ordered, share)
    needed = share * len(ordered) - 1e-9
    assert sum(value <= found for value in ordered) >= needed
    assert sum(value < found for value in ordered) < share * len(ordered) + 1e-9


def test_windows_are_joined_to_a_round() -> None:
    """What was done and spent is added, and the rate is that of the whole."""
    short = a_round()._replace(orders=500, window_s=1.0, cpu_s={"server": 1.0}, p99_ms=4.0)
    both = joined([a_round(failed={"Unavailable": 1}), short])
    assert (both.orders, both.window_s, both.orders_per_s) == (1500, 11.0, 1500 / 11)
    assert both.cpu_s == {"server": 1.5, "cassandra": 1.5, "generator": 0.25}
    assert (both.p99_ms, both.errors) == (3.0, {"Unavailable": 1})


def test_errors_are_added_and_costs_are_medians() -> None:
    """Errors of all rounds are added by code, and what 1,000 orders cost is the median, group by group."""
    rounds = [a_round(failed={"Unavailable": 2}), a_round(failed={"Unavailable": 1}), a_round()]
    assert errors(rounds) == {"Unavailable": 3}
    dear = a_round()._replace(cpu_s={"server": 9.0, "cassandra": 1.5, "generator": 0.25})
    assert cpu_s_per_1000([*rounds, dear]) == {"server": 0.5, "cassandra": 1.5, "generator": 0.25}
    assert cpu_s_per_1000([a_round()._replace(orders=0)]) == {}


@pytest.mark.parametrize(
    ("costs", "done"),
    [
        ([], False),
        ([3.0, 1.0], False),
        ([3.0, 1.0, 0.99], False),
        ([3.0, 1.0, 0.99, 1.02], True),
        ([3.0, 2.0, 1.0, 0.5], False),
    ],
)
def test_warm_up_ends_when_an_order_stops_becoming_cheaper(costs: list[float], done: bool) -> None:
    """A subject is warm when two windows in a row have not undercut the cheapest before them by a twentieth."""
    assert settled(costs, 0.05, 2) is done


def test_ratio_is_of_neighbours() -> None:
    """Each round is compared with the peer's round beside it, and rounds without a peer's rate are left out."""
    ours = [a_round(rate=50), a_round(rate=90), a_round(rate=10)]
    peers = [a_round("empty", 100), a_round("empty", 100), a_round("empty", 0)]
    assert ratio(ours, peers) == pytest.approx((0.7, 0.5, 0.9))
    assert ratio(ours, []) is None


def test_report_of_ghz_is_read_in_order_of_end() -> None:
    """Each call of a report comes out with its end, latency and code, by time."""
    details = [
        {"timestamp": "2026-01-01T00:00:01.5+00:00", "latency": 2_000_000, "error": "", "status": "OK"},
        {"timestamp": "2026-01-01T00:00:00.25Z", "latency": 1_000_000, "error": "x", "status": "Unavailable"},
    ]
    first, second = read_report(json.dumps({"count": 2, "details": details}).encode())
    assert (first.code, first.latency_s) == ("Unavailable", 0.001)
    assert second.ended_s - first.ended_s == 1.25


def test_damaged_report_is_an_error_of_ghz() -> None:
    """A report that was cut is told as such."""
    with pytest.raises(GhzError, match="cannot be read"):
        read_report(b'{"details": [')


@pytest.mark.parametrize("orders_per_call", [1, 3])
def test_messages_are_delimited_and_unique(orders_per_call: int, tmp_path: Path) -> None:
    """A file holds so many messages behind their lengths, and each order has a UUIDv7 of its own."""
    kind = load.CREATE if orders_per_call == 1 else load.batch_of(orders_per_call)
    load.write_messages(tmp_path / "m", 300, random.Random(1), kind)
    file = io.BytesIO((tmp_path / "m").read_bytes())
    if orders_per_call == 1:
        orders = [proto.parse_length_prefixed(orders_pb2.CreateOrderRequest, file) for _ in range(300)]
    else:
        batches = [proto.parse_length_prefixed(orders_pb2.BatchCreateOrdersRequest, file) for _ in range(300)]
        assert {len(batch.requests) for batch in batches} == {orders_per_call}
        orders = [one for batch in batches for one in batch.requests]
    assert not file.read()
    ids = {parse_uuid7(order.request_id) for order in orders}
    assert len(ids) == 300 * orders_per_call
    assert None not in ids
    assert all(order.customer_id and len(order.lines) == 2 and order.attributes for order in orders)


def test_reads_ask_for_the_hot_orders_over_and_over(tmp_path: Path) -> None:
    """Messages of reads go through the ids given, and begin again when they are through."""
    load.write_messages(tmp_path / "m", 5, random.Random(1), load.get(["a", "b"]))
    file = io.BytesIO((tmp_path / "m").read_bytes())
    asked = [proto.parse_length_prefixed(orders_pb2.GetOrderRequest, file).order_id for _ in range(5)]
    assert asked == ["a", "b", "a", "b", "a"]


@given(st.binary(max_size=20_000))
def test_length_goes_before_a_message_as_protobuf_has_it(message: bytes) -> None:
    """A delimited message is read back by protobuf's own reader of lengths."""
    wrapped = wrappers_pb2.BytesValue(value=message)
    file = io.BytesIO(load.delimited(wrapped.SerializeToString()))
    assert proto.parse_length_prefixed(wrappers_pb2.BytesValue, file) == wrapped
    assert not file.read()


def test_samples_count_for_our_innermost_line() -> None:
    """A sample counts for the innermost line of our code, whatever that called, and for its file."""
    profile = read_samples(
        [
            "main (server/worker.py:9);write (shards/lanes.py:5);put (queue.py:1) 3",
            "main (server/worker.py:9);write (shards/lanes.py:6) 1",
            "thread (7): waker;get (threading.py:3) 2",
            "",
        ]
    )
    assert profile.samples == 6
    assert profile.places == {
        "write (shards/lanes.py:5)": 3,
        "write (shards/lanes.py:6)": 1,
        "outside of our code": 2,
    }
    assert profile.modules == {"shards/lanes.py": 4, "outside of our code": 2}
