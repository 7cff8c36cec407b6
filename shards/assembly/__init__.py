"""Puts shards together, for workers (``workers``) and for movers (``fleets``).

Nothing else names concrete stores, caches and wrappers, but for ``shards.schema``, which makes keyspaces.
"""

from __future__ import annotations

from shards.assembly.caches import open_rates
from shards.assembly.fleets import open_fleet, open_next_home
from shards.assembly.storage import CACHES, STORES, StorageRefused, StorageSettings, TopologyAway, TopologyFileWrong
from shards.assembly.workers import backup, iterate_rows, open_router, prepare, restore, shard_over

__all__ = [
    "CACHES",
    "STORES",
    "StorageRefused",
    "StorageSettings",
    "TopologyAway",
    "TopologyFileWrong",
    "backup",
    "iterate_rows",
    "open_fleet",
    "open_next_home",
    "open_rates",
    "open_router",
    "prepare",
    "restore",
    "shard_over",
]
