"""The arithmetic of the benchmark, and what it writes and reads."""

import io
import json
import random
from pathlib import Path

import pytest
from google.protobuf import proto
from hypothesis import given
from hypothesis import strategies as st

from bench import ghz, load
from bench.campaign import open_loop_rate
from bench.ghz import Call, GhzError, read_report
from bench.profiling import read_samples
from bench.summary import Range, Round, measure, percentile, ratio, spread, summarise
from protos.orders.v1 import orders_pb2
from shards.keys import parse_uuid7


def a_round(subject: str = "crest", rate: float = 100.0, errors: dict[str, int] | None = None) -> Round:
    """A round with unremarkable figures."""
    return Round(subject, "native", "closed", 1000, 10.0, rate, 1.0, 2.0, errors or {}, 0, 0.5, 0.25, 0.1)


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


def test_summary_adds_errors_and_takes_medians() -> None:
    """Errors of all rounds are added by code, figures become median and range."""
    summary = summarise(
        [a_round(rate=90, errors={"Unavailable": 2}), a_round(rate=110, errors={"Unavailable": 1}), a_round(rate=100)]
    )
    assert summary.orders_per_s == Range(100, 90, 110)
    assert summary.errors == {"Unavailable": 3}
    assert summary.server_cpu_s_per_1000 == spread([0.5])


def test_ratio_is_of_neighbours() -> None:
    """Each round is compared with the peer's round beside it, and rounds without a peer's rate are left out."""
    ours = [a_round(rate=50), a_round(rate=90), a_round(rate=10)]
    peers = [a_round("empty", 100), a_round("empty", 100), a_round("empty", 0)]
    assert ratio(ours, peers) == pytest.approx((0.7, 0.5, 0.9))
    assert ratio(ours, []) is None


def test_open_loop_runs_at_half_of_what_crest_can() -> None:
    """The open loop's rate follows Crest's closed rounds, not the peer's, and is 0 when there was none."""
    assert open_loop_rate([a_round(rate=1000), a_round("empty", 9000), a_round(rate=3000)]) == 1000
    assert open_loop_rate([a_round("empty", 9000)]) == 0


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


def test_messages_are_delimited_and_unique(tmp_path: Path) -> None:
    """A file holds so many requests behind their lengths, each with a UUIDv7 of its own."""
    load.write_messages(tmp_path / "m", 300, random.Random(1))
    file = io.BytesIO((tmp_path / "m").read_bytes())
    requests = [proto.parse_length_prefixed(orders_pb2.CreateOrderRequest, file) for _ in range(300)]
    assert not file.read()
    ids = {parse_uuid7(request.request_id) for request in requests}
    assert len(ids) == 300
    assert None not in ids


@pytest.mark.parametrize("name", ["create-order.json", "create-order-reflection.json"])
def test_shipped_configurations_differ_in_the_proto_only(name: str) -> None:
    """Both configurations of ghz call CreateOrder alike, one of them with the proto of this checkout."""
    config = json.loads((ghz.ROOT / "bench/config" / name).read_text())
    other = json.loads((ghz.ROOT / "bench/config/create-order.json").read_text())
    assert config["call"] == ghz.CALL
    assert {key: other[key] for key in other.keys() - {"proto", "import-paths"}} == {
        key: config[key] for key in config.keys() - {"proto", "import-paths"}
    }
    assert (ghz.ROOT / other["proto"]).exists()


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
