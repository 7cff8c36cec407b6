"""Calls the order service from Python: ``OrderClient`` for asyncio, ``BlockingOrderClient`` for everything else.

``python -m clients`` is the same from a shell. Of this repository's packages it imports ``protos`` only.
"""

from clients.blocking import BlockingOrderClient
from clients.client import OrderClient
from clients.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    OrderError,
    Overloaded,
    Reason,
    RequestIdAhead,
    RequestIdExpired,
    RequestIdReused,
    ServerFault,
    TransitionNotAllowed,
    Unavailable,
    VersionMismatch,
    Violation,
)
from clients.orders import (
    Changed,
    Consistency,
    Created,
    Found,
    NewOrder,
    Order,
    OrderLine,
    Page,
    Shard,
    State,
    Topology,
    Transition,
    Worker,
    WorkerState,
)
from clients.request_ids import RequestIds
from clients.retry import RetryBudget, RetryPolicy
from clients.submit import Submitted
from clients.tls import Tls

__all__ = [
    "BlockingOrderClient",
    "Changed",
    "Conflict",
    "Consistency",
    "Created",
    "DeadlineExceeded",
    "Found",
    "InvalidRequest",
    "NewOrder",
    "NotFound",
    "Order",
    "OrderClient",
    "OrderError",
    "OrderLine",
    "Overloaded",
    "Page",
    "Reason",
    "RequestIdAhead",
    "RequestIdExpired",
    "RequestIdReused",
    "RequestIds",
    "RetryBudget",
    "RetryPolicy",
    "ServerFault",
    "Shard",
    "State",
    "Submitted",
    "Tls",
    "Topology",
    "Transition",
    "TransitionNotAllowed",
    "Unavailable",
    "VersionMismatch",
    "Violation",
    "Worker",
    "WorkerState",
]
