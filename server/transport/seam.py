"""The seam between services and what carries them, and the settings that all transports share."""

from __future__ import annotations

import enum
from typing import Final, Protocol

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What a transport takes; above our own limit of 3 MiB, so that callers are told by a typed error as long as can be."""

STREAMS_PER_CONNECTION_MAX: Final = 1_024
"""Calls of one connection under way at once; the caller's channel queues more. The default of the native transport."""

METADATA_BYTES_MAX: Final = 16 * 1024
"""Of a request; above it the call is refused. What grpcio takes by default."""

KEEPALIVE_S: Final = 60
"""A connection with calls that has been silent so long is asked whether its caller lives: watches have no deadline."""

KEEPALIVE_TIMEOUT_S: Final = 20
"""So long it may take to answer; then the connection is closed and its calls are cancelled."""

PING_S_MIN: Final = 0.5
"""Callers may ask as often as this whether a worker lives. The client library does each second, to notice one that is
stopped; grpcio's default of five minutes would cut it off."""


class Kind(enum.Enum):
    """The transports by the names of the setting."""

    AUTO = "auto"
    """The native one, as long as nothing is asked that only grpcio has."""
    GRPCIO = "grpcio"
    NATIVE = "native"


class BindError(OSError):
    """The address cannot be listened on."""

    def __init__(self, address: str) -> None:
        super().__init__(f"cannot listen on {address}: taken, not an address of this machine, or not allowed")
        self.address = address


class TransportServer(Protocol):
    """One listening server. Made bound but not serving."""

    @property
    def port(self) -> int:
        """The bound port, also when 0 was asked for."""

    async def start(self) -> None:
        """Begins to serve."""

    async def stop(self, grace_s: float) -> None:
        """Turns new calls away, waits up to ``grace_s`` for those under way, then cuts them. Idempotent.

        A caller whose call was cut sees CANCELLED or UNAVAILABLE, and learns by the same request id what became of it.
        """
