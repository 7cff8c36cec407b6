"""Which workers one client connects to when there are many.

Deterministic subsetting (B. Beyer et al., "Site Reliability Engineering", O'Reilly 2016, chapter 20): clients are
numbered, and each run of as many of them as there are subsets shares one shuffle of the workers, of which each takes
another part. So connections are spread evenly, where subsets drawn at random would leave some workers with few.

Clients here have no running numbers; a random one serves as well once there are many clients.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

WORKERS_MAX: Final = 16
"""Workers of one subset: enough that the death of one is hardly felt, and few enough connections for a client."""


def subset(addresses: Sequence[str], client: int, size: int = WORKERS_MAX) -> tuple[str, ...]:
    """Returns the ``size`` workers of the ``client``-th client (from 0); all of them when there are no more.

    The same for the same workers in whatever order they are told.
    """
    workers = sorted(set(addresses))
    if len(workers) <= size:
        return tuple(addresses)
    parts = len(workers) // size
    lap, part = divmod(client, parts)
    random.Random(lap).shuffle(workers)  # noqa: S311 - a shuffle to agree on, no secret
    return tuple(workers[part * size : (part + 1) * size])
