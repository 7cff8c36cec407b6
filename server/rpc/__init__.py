"""The wire: the only place of the server with protobuf types and gRPC.

Each method is composed once, at registration (``pipeline``): know the caller, parse, serve, encode, and whatever fails
becomes a status, a log line and an observation. Servicers see messages and a ``Call``, handlers see bytes; both
transports serve the same handlers.
"""
