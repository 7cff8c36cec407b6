"""Stores: the truth of one shard, each behind ``shards.contract.Store``."""
