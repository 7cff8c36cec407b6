"""Between messages and values: the only file that knows both."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from clients.orders import (
    NewOrder,
    Order,
    OrderLine,
    Shard,
    State,
    Topology,
    Transition,
    Worker,
    WorkerState,
)
from protos.orders.v1 import orders_pb2

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from protos.topology.v1 import topology_pb2

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_STATES = {state.value: state for state in State}


def create_request(draft: NewOrder, request_id: str) -> orders_pb2.CreateOrderRequest:
    """Returns the message that asks for an order. Raises ValueError for a number that int64 cannot hold."""
    # field by field: the constructor's keywords take twice as long
    request = orders_pb2.CreateOrderRequest()
    request.request_id = request_id
    request.customer_id = draft.customer_id
    request.currency_code = draft.currency_code
    for line in draft.lines:
        added = request.lines.add()
        added.sku = line.sku
        added.quantity = line.quantity
        added.unit_price_minor = line.unit_price_minor
    attributes = request.attributes
    for key, value in draft.attributes.items():
        attributes[key] = value
    return request


def order(message: orders_pb2.Order) -> Order:
    """Returns the order of a message."""
    attributes = message.attributes
    return Order(
        order_id=message.order_id,
        customer_id=message.customer_id,
        state=_state(message.state),
        version=message.version,
        currency_code=message.currency_code,
        lines=tuple([OrderLine(line.sku, line.quantity, line.unit_price_minor) for line in message.lines]),
        total_minor=message.total_minor,
        attributes={key: attributes[key] for key in attributes},  # half of what dict() takes
        create_time=time(message.create_time),
        update_time=time(message.update_time),
        transitions=tuple(
            [Transition(_state(step.state), step.version, time(step.time), step.reason) for step in message.transitions]
        ),
    )


def time(message: Timestamp) -> dt.datetime:
    """Returns the aware UTC datetime of a timestamp, to the microsecond."""
    return _EPOCH + dt.timedelta(0, message.seconds, message.nanos // 1000)


def _state(number: int) -> State:
    known = _STATES.get(number)  # an enum's own look-up takes ten times as long
    return State.UNKNOWN if known is None else known


def topology(message: topology_pb2.Topology) -> Topology:
    """Returns the topology of a message."""
    return Topology(
        epoch=message.epoch,
        shards=tuple(Shard(shard.id, shard.weight) for shard in message.shards),
        slot_shards=tuple(message.slot_shards),
        workers=tuple(Worker(w.id, w.address, WorkerState(w.state)) for w in message.workers),
    )
