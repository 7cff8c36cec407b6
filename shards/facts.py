"""Facts: small named values that change by compare-and-set, and what all processes agree by.

They have two homes. Where the topology is kept: the topology itself, and whatever is true of all shards. Beside the
orders of each shard: what is true of that shard alone, so that a shard that is down holds up nobody else. Every store
has an implementation, and one acceptance suite (``tests/contract``) holds them to this module. Nothing here does I/O.

The law:

1. **A change is conditional** on the revision that is there, and raises it. Of several that meet one wins.
2. **What a change returned is durable**, but for ``grant``, ``renew`` and ``tell``: what these wrote may be forgotten
   when the machine that keeps it loses power, together with every process on it. Killing processes loses nothing.
3. **read** is linearizable with all changes. **glance**, **revision** and **list** show every change that was
   acknowledged before they began, and perhaps later ones that are not acknowledged yet; what one of them has shown all
   later ones show, whoever asks. A ``list`` that follows a change of its scope shows every fact whose change came
   before that one.
4. **grant and renew are atomic with their guard**: they happen only while the guard's fact is of the guard's revision.
   So whoever has replaced that fact knows that nothing is granted or renewed under its old revision any more.
5. **tell has no condition**: one process alone ever tells a fact of a name, with rising revisions, and what it told
   last stays, whatever lands late. Told facts are what ``list`` is for; they are as durable as granted ones, and where
   ``tells_for_good`` as those that a change returned.
6. **Failures are honest**: ``Unavailable``, ``Overloaded`` and ``Invalid`` mean that nothing was or will be written;
   after any other failure it may have been, or may yet be, written, as far as its condition still holds then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

FACT_BYTES_MAX: Final = 512 * 1024
"""Largest value of a fact; the topology of 1,024 shards takes 41 KB."""

LISTED_MAX: Final = 4_096
"""Most facts of one scope; ``list`` returns no more."""


class Fact(NamedTuple):
    """One fact as it is kept."""

    revision: int
    """From 1; raised by every change."""
    value: bytes


class Guard(NamedTuple):
    """A condition on another fact of the same scope."""

    name: str
    revision: int
    """The revision that it must have."""


class Facts(Protocol):
    """Keeps facts by scope and name, for many processes at once. All methods raise ``StoreError`` (law 6).

    Facts of one scope are kept together; facts of different scopes know nothing of each other.
    """

    tells_for_good: bool = False
    """What was told is not forgotten either (law 2)."""

    async def read(self, scope: str, name: str) -> Fact | None:
        """Returns a fact; None where there is none."""

    async def glance(self, scope: str, name: str) -> Fact | None:
        """Returns the same at less cost (law 3)."""

    async def revision(self, scope: str, name: str) -> int:
        """Returns a fact's revision alone, as ``glance`` sees it; 0 where there is none."""

    async def list(self, scope: str) -> Mapping[str, Fact]:
        """Returns all facts of a scope by name."""

    async def create(self, scope: str, name: str, fact: Fact) -> Fact:
        """Stores a fact unless there is one, and returns the one that is there then. Idempotent."""

    async def replace(self, scope: str, name: str, revision: int, fact: Fact) -> bool:
        """Replaces the fact of a revision by one of a higher revision; False when another is there, or none.

        Makes the change again where its outcome is unknown, and then takes the very same fact for its own: let the
        value say who wrote it where that matters. False may also mean that it was written and has been replaced since.
        """

    async def delete(self, scope: str, name: str, revision: int) -> bool:
        """Removes the fact of a revision. True when there is none afterwards, False when another is there."""

    async def grant(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """Stores a fact where there is none and the guard holds; False otherwise. Made once, not again."""

    async def renew(self, scope: str, name: str, fact: Fact, guard: Guard) -> bool:
        """Replaces a fact of any lower revision while the guard holds; False otherwise. Made once, not again.

        Several may be under way at once: the highest revision stays.
        """

    async def tell(self, scope: str, name: str, fact: Fact) -> None:
        """Stores a fact in the place of what this process told before, at a fraction of what a condition costs.

        What somebody deleted may stay away for a while, though it is told again.
        """

    async def close(self) -> None:
        """Finishes what is under way and lets go of files and connections. Idempotent."""
