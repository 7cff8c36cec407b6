"""Moves slots between shards while orders flow: what is planned, done, proven and undone.

``record`` is what is written down about a rebalance; the movers read and advance it, operators give it commands.
"""
