"""Use cases: what the service does for a caller. Asynchronous; the router and the clock are arguments.

Raises ``OrderError`` only. Knows no wire: no protobuf, no status code.
"""
