"""Which worker commits which lane. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet


def committers(
    shard: int, lanes: int, serving: AbstractSet[int], workers: int, lagging: AbstractSet[int] = frozenset()
) -> tuple[int | None, ...]:
    """Returns the number of the worker that commits each lane of a shard; None where nobody serves.

    ``workers`` is how many the server has, ``serving`` those of them that serve now, numbered from 0. Lanes are dealt
    out evenly over all, shard after shard; those of a worker that does not serve, or lags while another one does not,
    fall to the next one that does, and all others stay where they are.
    """
    serving = (serving - lagging) or serving
    return tuple(_committer((shard * lanes + lane) % workers, serving, workers) for lane in range(lanes))


def _committer(first: int, serving: AbstractSet[int], workers: int) -> int | None:
    for step in range(workers):
        number = (first + step) % workers
        if number in serving:
            return number
    return None
