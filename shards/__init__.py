"""Where orders live: slots on shards, lanes that commit in groups, stores that keep bytes, caches that remember them.

Knows keys, versions, digests and bytes; never money or states.
"""
