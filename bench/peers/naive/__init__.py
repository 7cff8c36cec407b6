"""A peer: Python's usual gRPC server and driver, one insert an order."""
