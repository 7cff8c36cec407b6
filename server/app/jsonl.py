"""An order as a line of JSON, for exports: the names of the wire, integers as numbers, times as RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from server.app import codec
from shards.contract import Row
from shards.keys import format_uuid

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_encode = msgspec.json.Encoder().encode


def json_line(row: Row) -> bytes:
    """Returns the line of a row, its end included. Raises ``OrderError`` as ``codec.decode`` does."""
    order = codec.decode(row)
    transitions = order.transitions
    line = {
        "order_id": format_uuid(order.order_id),
        "customer_id": order.customer_id,
        "state": order.state.name,
        "version": order.version,
        "currency_code": order.currency_code,
        "lines": [line._asdict() for line in order.lines],
        "total_minor": order.total_minor,
        "attributes": dict(order.attributes),
        "create_time": _time(transitions[0].time_us),
        "update_time": _time(transitions[-1].time_us),
        "transitions": [
            {"state": step.state.name, "version": version, "time": _time(step.time_us), "reason": step.reason}
            for version, step in enumerate(transitions, start=1)
        ],
    }
    return _encode(line) + b"\n"


def _time(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")
