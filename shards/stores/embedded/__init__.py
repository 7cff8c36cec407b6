"""The embedded store: one SQLite file (WAL) a shard, shared by all workers of one machine.

``prepare`` takes and checks the data directory, once; then each worker opens an ``EmbeddedStore`` a shard and the
``EmbeddedFacts``. docs/adr/0004-embedded-store.md tells why it is built the way it is, with measurements.
"""

from __future__ import annotations

from shards.stores.embedded.backup import backup, iterate_rows, restore
from shards.stores.embedded.control import EmbeddedFacts
from shards.stores.embedded.copies import EmbeddedCopies
from shards.stores.embedded.datadir import add_shard, admit, control_path, join, prepare, shard_path
from shards.stores.embedded.errors import (
    DataDirCorrupt,
    DataDirError,
    DataDirFull,
    DataDirLocked,
    DataDirNewer,
)
from shards.stores.embedded.store import EmbeddedStore

__all__ = [
    "DataDirCorrupt",
    "DataDirError",
    "DataDirFull",
    "DataDirLocked",
    "DataDirNewer",
    "EmbeddedCopies",
    "EmbeddedFacts",
    "EmbeddedStore",
    "add_shard",
    "admit",
    "backup",
    "control_path",
    "iterate_rows",
    "join",
    "prepare",
    "restore",
    "shard_path",
]
