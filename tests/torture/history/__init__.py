"""Callers of every kind against a running server that a nemesis disturbs; every answer becomes part of a history."""
