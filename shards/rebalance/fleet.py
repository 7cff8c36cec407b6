"""What movers work on: the home of the topology, and each shard's facts and slots. ``shards.assembly`` opens it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

from shards.contract import Copies
from shards.facts import Facts


class Part(NamedTuple):
    """One shard, to a mover."""

    facts: Facts
    """Those beside its orders."""
    copies: Copies


async def part_of(fleet: Fleet, shard: int) -> Part:
    """Returns a shard of a fleet. Raises ``StoreError``."""
    return Part(*await fleet.part(shard))


class Fleet(Protocol):
    """Every shard, opened when it is first asked for. Raises ``StoreError``."""

    @property
    def home(self) -> Facts:
        """The facts where the topology is kept."""

    async def part(self, shard: int) -> tuple[Facts, Copies]:
        """Returns a shard, as ``Part``; it may be away: its calls fail then."""

    async def prepare(self, shard: int) -> None:
        """Makes what a shard that is about to be added needs; nothing where it is there. Raises ``StoreError``."""

    async def close(self) -> None:
        """Closes all that was opened. Idempotent."""


class Deposed(Exception):
    """Another mover has taken over, or an operator has begun another attempt: this one must do nothing any more."""


At: TypeAlias = Callable[[str], Awaitable[None]]
"""Told the name of each point of the work, just before and just after whatever is durable: tests end the process
there. The names are those of ``POINTS``."""

POINTS: Final = tuple(
    f"{when} {step}"
    for step in (
        "take over",
        "fence topology",
        "fence states",
        "add shard",
        "index and place",
        "seal",
        "pause",
        "final place",
        "open",
        "flip",
        "unpause",
        "name stuck",
        "rest states",
        "drop burnt",
        "finish",
    )
    for when in ("before", "after")
)
"""Every point, in the order of the work."""


async def nowhere(point: str) -> None:
    """The ``At`` of a mover that nobody watches."""
