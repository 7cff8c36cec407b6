"""Transports: what carries the handlers' bytes over HTTP/2. Two of them behind one seam.

``grpcio`` is gRPC's own and the one for TLS, ``native`` is several times as fast for unary
calls. Handlers, limits and errors are the same; the end-to-end suite runs on both.
"""

from server.transport.opening import open_server
from server.transport.seam import BindError, Kind, TransportServer
from server.transport.tls import Certificates, TlsError, TlsFiles

__all__ = ["BindError", "Certificates", "Kind", "TlsError", "TlsFiles", "TransportServer", "open_server"]
