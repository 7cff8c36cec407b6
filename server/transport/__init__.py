"""Transports: what carries the handlers' bytes over HTTP/2. Two of them behind one seam.

``grpcio`` is gRPC's own (and will be the one for TLS and connection age), ``native`` is several times as fast for unary
calls. Handlers, limits and errors are the same; the end-to-end suite runs on both.
"""

from server.transport.opening import open_server
from server.transport.seam import BindError, Kind, TransportServer

__all__ = ["BindError", "Kind", "TransportServer", "open_server"]
