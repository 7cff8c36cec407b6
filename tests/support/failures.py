"""How calls fail: the status, with all its details, that an error carries."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2


class Failed:
    """What a failed call tells."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details() or ""
        trailers = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert status.code == self.code.value[0]
        self.info = error_details_pb2.ErrorInfo()
        self.bad = error_details_pb2.BadRequest()
        self.retry: error_details_pb2.RetryInfo | None = None
        for detail in status.details:
            if not detail.Unpack(self.info) and not detail.Unpack(self.bad):
                self.retry = error_details_pb2.RetryInfo()
                assert detail.Unpack(self.retry)
        assert self.info.domain == "orders.v1"

    @property
    def fields(self) -> list[str]:
        """Paths of all bad fields."""
        return [violation.field for violation in self.bad.field_violations]


async def failure(call: Any) -> Failed:  # noqa: ANN401  # any call of a stub
    """Returns how a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Failed(caught.value)
