"""Benchmarks: what an order costs, against a server that does nothing, measured in the same run."""
