"""The embedded store: one SQLite file (WAL) a shard, shared by all workers of one machine.

docs/adr/0002-embedded-store.md tells why it is built the way it is, with the measurements.
"""

from __future__ import annotations

from shards.stores.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]
