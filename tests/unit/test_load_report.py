"""What a worker tells of its load."""

import asyncio
import math
from types import SimpleNamespace

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from server.rpc import load_report
from server.rpc.load_report import INTERVAL_S, KEY, LoadReport, encode

FIELDS = {"cpu_utilization": 1, "rps_fractional": 6, "eps": 7, "application_utilization": 9}


def decode(data: bytes) -> dict[str, float]:
    """Reads a report as a balancer does: by the message's definition (xds.data.orca.v3, the fields used here)."""
    file = descriptor_pb2.FileDescriptorProto(name="orca.proto", package="xds.data.orca.v3", syntax="proto3")
    message = file.message_type.add(name="OrcaLoadReport")
    for name, number in FIELDS.items():
        message.field.add(name=name, number=number, type="TYPE_DOUBLE", label="LABEL_OPTIONAL")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("xds.data.orca.v3.OrcaLoadReport"))
    parsed = kind.FromString(data)
    return {name: getattr(parsed, name) for name in FIELDS}


def told(report: LoadReport) -> dict[str, float]:
    """What its trailers say."""
    ((key, value),) = report.trailers
    assert key == KEY
    assert isinstance(value, bytes)
    return decode(value)


def weight(report: LoadReport) -> float:
    """The weight that weighted_round_robin gives a worker (gRFC A58, penalty for errors 1)."""
    numbers = told(report)
    calls_per_s = numbers["rps_fractional"]
    return calls_per_s / (numbers["application_utilization"] + numbers["eps"] / calls_per_s)


def seconds(
    count: float, *, calls: int = 10, cpu: float = 0.1, in_flight: int = 1, stopped_s: float = 0.0, code: str = "OK"
) -> LoadReport:
    """A report after so many seconds of ``calls`` an interval; ``stopped_s`` of each second the process is stopped."""
    report = LoadReport()
    report.in_flight = in_flight
    for _ in range(round(count)):
        running_s = 1.0 - stopped_s
        for _ in range(round(running_s / INTERVAL_S)):
            for _ in range(calls):
                report.ended(code)
            report.sample(INTERVAL_S, cpu * INTERVAL_S, 0.0)
        if stopped_s:
            report.sample(stopped_s, 0.0, stopped_s)
    return report


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e3))
def test_a_report_is_the_standard_message(calls_per_s: float, faults_per_s: float, utilization: float) -> None:
    """Whoever knows OrcaLoadReport reads the three numbers, and no others."""
    assert decode(encode(calls_per_s, faults_per_s, utilization)) == {
        "cpu_utilization": 0.0,
        "rps_fractional": calls_per_s,
        "eps": faults_per_s,
        "application_utilization": utilization,
    }


def test_nothing_is_told_before_there_was_a_call() -> None:
    """An idle worker sends no trailer, so that callers weigh it as an average one."""
    assert seconds(3, calls=0).trailers == ()


def test_a_report_settles_on_what_happens() -> None:
    """Under constant load the numbers are the rate, the faults, and the share of time that is taken."""
    numbers = told(seconds(60, calls=10, cpu=0.25, in_flight=64))
    assert abs(numbers["rps_fractional"] - 100) < 1
    assert abs(numbers["application_utilization"] - 0.5) < 0.01
    assert numbers["eps"] == 0


def test_a_worker_with_less_room_weighs_less() -> None:
    """Computing longer, being stopped, calls that pile up, and faults each lower a worker's weight."""
    usual = weight(seconds(10))
    assert weight(seconds(10, cpu=0.2)) < 0.7 * usual
    assert weight(seconds(10, stopped_s=0.5)) < 0.5 * usual
    assert weight(seconds(10, in_flight=128)) < 0.5 * usual
    assert weight(seconds(10, code="UNAVAILABLE")) < 0.5 * usual


def test_what_callers_do_wrong_is_no_load() -> None:
    """Refusals of wrong requests count as calls, not as faults."""
    assert weight(seconds(10, code="INVALID_ARGUMENT")) == weight(seconds(10))


def test_equal_work_on_unequal_shares_evens_out() -> None:
    """Of two equal workers the one that got more calls weighs no more for it: shares do not run away."""
    fixed = 0.02  # of a second a second: beats, health, reports
    lesser = weight(seconds(30, calls=10, cpu=fixed + 10 * 0.005))
    greater = weight(seconds(30, calls=30, cpu=fixed + 30 * 0.005))
    assert greater / lesser < 3


@pytest.mark.parametrize("cycle_s", [INTERVAL_S, INTERVAL_S / 2, 3 * INTERVAL_S])
async def test_a_pause_in_step_with_the_reports_is_seen(cycle_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is stopped for 60 % of each cycle says so, also when every report falls into a time of running."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        began = math.floor(now / cycle_s) * cycle_s
        if now > 30.0:
            raise asyncio.CancelledError
        now = max(now, began + 0.6 * cycle_s)  # while it is stopped nothing wakes it
        report.ended("OK")

    clock = SimpleNamespace(monotonic=lambda: now, process_time=lambda: 0.0, thread_time=lambda: 0.0)
    monkeypatch.setattr(load_report, "time", clock)
    monkeypatch.setattr(load_report, "asyncio", SimpleNamespace(sleep=sleep))
    report = LoadReport()
    with pytest.raises(asyncio.CancelledError):
        await report.run()
    assert 0.35 <= told(report)["application_utilization"] <= 0.65
    assert 0.35 <= report.stalled_s / now <= 0.65


async def test_a_loop_that_computes_is_not_kept_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in which the loop's own thread computed is busy, and not stalled."""
    now = computed = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, computed
        now += seconds + 0.08  # a long turn each time,
        computed += 0.07  # of which a little was waiting for a processor
        if now > 10.0:
            raise asyncio.CancelledError

    clock = SimpleNamespace(monotonic=lambda: now, process_time=lambda: computed, thread_time=lambda: computed)
    monkeypatch.setattr(load_report, "time", clock)
    monkeypatch.setattr(load_report, "asyncio", SimpleNamespace(sleep=sleep))
    report = LoadReport()
    with pytest.raises(asyncio.CancelledError):
        await report.run()
    assert report.stalled_s / now == pytest.approx(0.1, abs=0.01)
