"""The operator's benchmark: configurations, shapes of load, and what is made of the calls."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from typer.testing import CliRunner

from bench import http, operator
from bench.__main__ import app
from bench.ghz import Call
from bench.http import HttpError
from bench.installed import ROOT
from bench.operator import Load, Method, Shape
from protos.orders.v1 import orders_pb2
from protos.topology.v1 import topology_pb2

SERVICES = {
    service.full_name: service
    for file in (orders_pb2, topology_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}


def config(name: str) -> dict[str, Any]:
    """The content of a shipped configuration."""
    content: dict[str, Any] = json.loads((operator.CONFIG / f"{name}.json").read_text())
    return content


@pytest.mark.parametrize("method", list(Method))
def test_each_method_has_a_configuration_that_its_request_accepts(method: Method) -> None:
    """A shipped configuration names a method of the service, and its data are fields of that method's request."""
    found = config(method)
    service, _, name = str(found["call"]).partition("/")
    called = SERVICES[service].methods_by_name[name]
    assert (ROOT / str(found["proto"])).exists()
    if "data-file" in found:
        assert ROOT / str(found["data-file"]) == operator.ORDERS / f"{method}.json"
        return
    for message in found["data"] if isinstance(found["data"], list) else [found["data"]]:
        json_format.ParseDict(message, message_factory.GetMessageClass(called.input_type)())


def test_each_rpc_of_the_orders_has_a_configuration() -> None:
    """An operator can load every method of the order service."""
    called = {str(config(method)["call"]).partition("/")[2] for method in Method}
    assert called >= set(orders_pb2.DESCRIPTOR.services_by_name["OrderService"].methods_by_name)


def test_configurations_of_create_differ_in_the_proto_only() -> None:
    """The configuration that asks the server for its proto is otherwise the one with the proto of this checkout."""
    own = {key: value for key, value in config("create-order").items() if key not in {"proto", "import-paths"}}
    assert config("create-order-reflection") == own


def test_shapes_rise_as_they_say() -> None:
    """A step has five rises up to the rate, a flash one from a tenth of it, a constant load none."""
    assert Load(Method.GET, Shape.CONSTANT, 100, 10).rises == [(0.0, 100)]
    assert Load(Method.GET, Shape.STEP, 100, 10).rises == [(0, 20), (2, 40), (4, 60), (6, 80), (8, 100)]
    assert Load(Method.GET, Shape.FLASH, 100, 9).rises == [(0, 10), (3, 100)]


def test_flags_of_a_shape_end_at_the_rate() -> None:
    """A load that rises is told to ghz as a schedule that ends at the rate; without a rate callers wait."""
    assert operator.flags(Load(Method.GET, Shape.CONSTANT, 0, 10)) == ["--duration=10s"]
    assert operator.flags(Load(Method.GET, Shape.CONSTANT, 50, 10)) == ["--duration=10s", "--async", "--rps=50"]
    flags = operator.flags(Load(Method.GET, Shape.FLASH, 1000, 30))
    assert {"--load-start=100", "--load-step=900", "--load-end=1000", "--load-step-duration=10s"} <= set(flags)


@pytest.mark.parametrize(("at", "seconds"), [("00:00", 590.0), ("23:50", 86_390.0), ("23:51", 50.0)])
def test_flash_falls_on_the_time_that_was_asked_for(at: str, seconds: float) -> None:
    """The load starts so that its last rise falls on the next such time of day."""
    now = datetime(2026, 11, 22, 23, 50, 0, tzinfo=UTC)
    assert operator.starts_in_s(at, now, Load(Method.GET, Shape.FLASH, 100, 30)) == seconds


def test_outcome_counts_failures_apart() -> None:
    """Calls not answered OK are in no latency, and are told by their code."""
    calls = [Call(1000.0 + number / 100, 0.010, "OK") for number in range(100)]
    calls += [Call(1000.5, 5.0, "Unavailable")] * 3
    found = operator.outcome(calls, Load(Method.CREATE, Shape.CONSTANT, 100, 1), "here")
    (row,) = found.rows
    assert row.ours.p99_ms is not None
    assert row.ours.p99_ms.median == pytest.approx(10.0)
    assert found.findings == ["3 of 103 calls were not answered OK: 3 Unavailable"]
    assert {chart.kind for chart in found.charts} == {"step", "line", "bar"}
    nothing = operator.outcome(calls[-3:], Load(Method.CREATE, Shape.CONSTANT, 100, 1), "here")
    assert nothing.findings == ["no call of 3 was answered OK: 3 Unavailable"]
    assert operator.outcome([], Load(Method.CREATE, Shape.CONSTANT, 100, 1), "here").rows == ()


def test_report_of_vegeta_is_read() -> None:
    """Answers with 200 count as orders, the others as errors by code, over the time to the last answer."""
    text = b"""{"latencies": {"50th": 1000000000, "99th": 2000000000}, "duration": 4000000000, "wait": 1000000000,
        "status_codes": {"200": 400, "0": 7}}"""
    assert http.read_report(text, 0.5) == http.Shot(400, 5.0, 1000.0, 2000.0, {"0": 7}, 0.5)
    with pytest.raises(HttpError, match="cannot be read"):
        http.read_report(b"{}", 0.0)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """A folder without a run, and one with something else in it, are told of in one line and an exit code."""
    none = CliRunner().invoke(app, ["report", str(tmp_path)])
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    other = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert [none.exit_code, other.exit_code] == [1, 1]
    assert "results.json: No such file" in none.output.replace("\n", " ")
    assert "not what a run writes" in other.output.replace("\n", " ")
