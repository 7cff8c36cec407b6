"""The operator's benchmark against a running service: what it makes ready before a method is called."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format

from bench import operator
from bench.operator import Load, Method, Shape
from protos.orders.v1 import orders_pb2
from tests.support.addresses import loopback
from tests.support.crest import Crest, orders

HOST = loopback(26)
PORT = 20_680
LOOKED_AT = 20


async def test_orders_are_brought_to_where_their_method_may_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that is made ready for a read or a transition is answered OK, each transition for the first time."""
    monkeypatch.setattr(operator, "ORDERS", tmp_path / "orders")
    monkeypatch.setattr(operator, "HOT_ORDERS", 1)
    with Crest(HOST, PORT, tmp_path / "data") as server:
        server.wait_serving()
        async with server.channel() as channel:
            stub = orders(channel)
            for method in (*operator.READS, *operator.TRANSITIONS):
                assert operator.prepare(f"{HOST}:{PORT}", Load(method, Shape.CONSTANT, 1, 1)) >= LOOKED_AT
                config = json.loads((operator.CONFIG / f"{method}.json").read_text(encoding="utf-8"))
                name = config["call"].partition("/")[2]
                calls = json.loads((operator.ORDERS / f"{method}.json").read_text(encoding="utf-8"))
                for call in calls[:LOOKED_AT]:
                    request = json_format.ParseDict(call, getattr(orders_pb2, f"{name}Request")())
                    if method is Method.WATCH:
                        states = [told.order.state async for told in stub.WatchOrder(request, timeout=20)]
                        assert states == [orders_pb2.Order.STATE_CANCELLED]
                    else:
                        await getattr(stub, name)(request, timeout=20)
