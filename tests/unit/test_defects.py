import pytest

from server.domain.errors import OrderError, Reason
from server.rpc.call import Call
from server.rpc.call_log import CallLog
from server.rpc.errors import item_error, refusal_of


@pytest.mark.parametrize(
    "defect",
    [
        RuntimeError("the secret of zoe"),
        KeyError("secret"),
        OrderError(Reason.INTERNAL, "secret", metadata={"x": "secret"}),
    ],
    ids=lambda defect: type(defect).__name__,
)
def test_a_caller_learns_nothing_of_a_defect(defect: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Message, details and items that a caller is sent hold the id of the log line and nothing of the defect."""
    told = CallLog(lambda _: 0).expected("orders.v1.OrderService/CreateOrder", Call(), defect)
    refusal = refusal_of(told)
    sent = [refusal.message.encode(), item_error(told).SerializeToString()]
    sent += [value if isinstance(value, bytes) else value.encode() for _, value in refusal.trailers]
    (record,) = caplog.records
    assert record.exc_info
    assert "secret" in str(record.exc_info[1])
    for part in sent:
        assert b"secret" not in part
        assert vars(record)["call_id"].encode() in part
