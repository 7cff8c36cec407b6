"""One committer a lane: rows are handed to the worker of this server that commits their lane, and its answers back.

For speed only: any worker may commit any row at any time, and does so when the committer is away. See docs/adr/0019.
"""
