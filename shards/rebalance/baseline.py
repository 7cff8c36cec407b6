"""What callers feel without any move, and whether the limit that an operator sets leaves room for one."""

from __future__ import annotations

import asyncio
import statistics
from typing import Final

from shards.leases import LeaseWatch
from shards.rebalance.fleet import Fleet, part_of
from shards.rebalance.record import IllegalStep, Options
from shards.rebalance.throttle import with_room_ms
from shards.topology import Topology

_LOOKS: Final = 3
_LOOK_S: Final = 1.0
"""Workers tell their telemetry with each renewal, about once a second."""


async def usual_p99_ms(fleet: Fleet, topology: Topology) -> float | None:
    """Returns the callers' p99 in milliseconds: the worst worker counts, and of some looks the middle one.

    None where no worker tells. Takes about two seconds. Raises ``StoreError``.
    """
    watches = [LeaseWatch((await part_of(fleet, info.id)).facts) for info in topology.shards]
    seen: list[float] = []
    for look in range(_LOOKS):
        if look:
            await asyncio.sleep(_LOOK_S)  # sleep: what is measured is time
        await asyncio.gather(*(watch.look() for watch in watches))
        told = [lease.lease.telemetry.p99_ms for watch in watches for lease in watch.live().values()]
        if told:
            seen.append(max(told))
    return statistics.median(seen) if seen else None


async def refuse_hopeless(fleet: Fleet, topology: Topology, options: Options) -> None:
    """Raises ``IllegalStep`` for a limit that callers' p99 is above before anything moves: it would wait for ever.

    Its text tells the figure, and a limit that leaves room. Raises ``StoreError``.
    """
    if options.keep_p99_ms is None:
        return
    usual_ms = await usual_p99_ms(fleet, topology)
    if usual_ms is None or usual_ms <= options.keep_p99_ms:
        return
    enough_ms = with_room_ms(usual_ms)
    raise IllegalStep(
        f"callers' p99 is {usual_ms:.0f} ms with nothing moving: under a limit of {options.keep_p99_ms:g} ms it would "
        f"wait for ever; take --keep-p99-ms {enough_ms} or more, or --may-wait to begin when it has fallen",
        (f"--keep-p99-ms {enough_ms}", "--may-wait"),
    )
