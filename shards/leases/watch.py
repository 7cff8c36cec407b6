"""A mover's side of a shard's slots: changes their states, and knows which workers have not taken note yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from shards.contract import Corrupt
from shards.facts import Fact, Facts
from shards.leases.hold import boottime_s
from shards.leases.states import (
    LEASE_MARGIN,
    LEASE_PREFIX,
    SCOPE,
    STATES,
    WORD_PREFIX,
    Lease,
    LeaseDamaged,
    SlotStates,
    Word,
)


class SeenLease(NamedTuple):
    """A lease as it was last seen."""

    lease: Lease
    revision: int
    """Of its fact: another one than before says that it was renewed."""
    seen_s: float
    """When this revision was first seen (the watch's clock): it was granted or renewed before that."""
    word: Word | None = None
    """What its worker has told beside it."""
    word_revision: int = 0
    """Of the word's fact; 0 for none."""

    @property
    def ends_s(self) -> float:
        """From then on its worker answers nothing under it for sure (the watch's clock)."""
        return self.seen_s + self.lease.duration_s * (1 + LEASE_MARGIN)

    @property
    def states_revision(self) -> int:
        """Its worker answers under no states before these, whatever comes."""
        return max(self.lease.states_revision, self.word.states_revision if self.word else 0)

    @property
    def epoch(self) -> int:
        """Its worker acts under no topology before this one, whatever comes."""
        return max(self.lease.epoch, self.word.epoch if self.word else 0)


class SlotStatesWriter:
    """Changes the states of one shard's slots. All methods raise ``StoreError``."""

    def __init__(self, facts: Facts) -> None:
        """``facts``: those beside the shard's orders."""
        self._facts = facts

    def __repr__(self) -> str:
        return f"SlotStatesWriter({self._facts!r})"

    async def read(self) -> SlotStates:
        """Returns the present states, linearizable with changes; makes the first ones where there are none."""
        return await read_states(self._facts)

    async def replace(self, states: SlotStates, by: SlotStates) -> bool:
        """Makes ``by`` (of ``states.next``) of the states; False when others are there.

        After it returned True no lease is granted or renewed under ``states`` or any before. An error leaves open
        whether it was done, or will be: a change of others, or ``by`` itself written again, ends that.
        """
        return await self._facts.replace(SCOPE, STATES, states.revision, by.to_fact())


class LeaseWatch:
    """Looks at the leases of one shard again and again. Times are those of ``clock_s``, of one process."""

    def __init__(self, facts: Facts, clock_s: Callable[[], float] = boottime_s) -> None:
        self._facts: Final = facts
        self._clock_s: Final = clock_s
        self._seen: dict[str, SeenLease] = {}

    def __repr__(self) -> str:
        return f"LeaseWatch({self._facts!r}, leases={len(self._seen)})"

    @property
    def leases(self) -> Mapping[str, SeenLease]:
        """By worker, every lease of the last look, those that have ended included."""
        return self._seen

    async def look(self) -> Mapping[str, SeenLease]:
        """Looks, and returns ``leases``. Raises ``StoreError``."""
        found = await self._facts.list(SCOPE)
        now_s = self._clock_s()
        seen: dict[str, SeenLease] = {}
        for name, fact in found.items():
            if not name.startswith(LEASE_PREFIX):
                continue
            try:
                lease = Lease.from_fact(name, fact)
                told = found.get(WORD_PREFIX + lease.worker)
                word = None if told is None else Word.from_fact(WORD_PREFIX + lease.worker, told)
            except LeaseDamaged as error:
                raise Corrupt(str(error)) from error
            one = self._seen.get(lease.worker)
            if one is None or one.revision != fact.revision:
                one = SeenLease(lease, fact.revision, now_s)
            seen[lease.worker] = one._replace(word=word, word_revision=told.revision if told else 0)
        self._seen = seen
        return seen

    def live(self) -> Mapping[str, SeenLease]:
        """Returns those of the last look that may not have ended yet."""
        now_s = self._clock_s()
        return {worker: seen for worker, seen in self._seen.items() if now_s < seen.ends_s}

    def pending(self, states_revision: int, written_s: float) -> Mapping[str, SeenLease]:
        """Returns those of the last look whose workers may still answer under states before ``states_revision``.

        ``written_s``: when the write of those states had returned (``clock_s``). The look must have begun after that.
        Empty: from now on every answer of any worker is under these states, or later ones.
        """
        now_s = self._clock_s()
        return {
            worker: seen
            for worker, seen in self._seen.items()
            if seen.states_revision < states_revision
            and now_s < min(seen.ends_s, written_s + seen.lease.duration_s * (1 + LEASE_MARGIN))
        }

    def behind(self, epoch: int) -> Mapping[str, SeenLease]:
        """Returns those of the last look whose workers may still act under a topology before ``epoch``."""
        return {worker: seen for worker, seen in self.live().items() if seen.epoch < epoch}

    async def forget(self, worker: str) -> bool:
        """Removes the lease of a worker, which must have ended; False when it was renewed. Raises ``StoreError``."""
        seen = self._seen[worker]
        assert self._clock_s() >= seen.ends_s, "a lease is removed by its worker until it has ended"
        if seen.word is not None:  # first: nobody would look for a word without a lease
            await self._facts.delete(SCOPE, seen.word.fact_name, seen.word_revision)
        return await self._facts.delete(SCOPE, seen.lease.fact_name, seen.revision)


async def has_states(facts: Facts) -> bool:
    """Tells whether a worker has ever held a lease on a shard, or a mover looked at it. Raises ``StoreError``."""
    return await facts.revision(SCOPE, STATES) > 0


async def read_states(facts: Facts) -> SlotStates:
    """Returns the present states of a shard's slots; makes the first ones where there are none.

    Raises ``StoreError``; ``Corrupt`` for what this release cannot read.
    """
    return _states(await facts.read(SCOPE, STATES) or await facts.create(SCOPE, STATES, SlotStates().to_fact()))


async def glance_states(facts: Facts) -> SlotStates | None:
    """Returns the states at less cost, as ``Facts.glance`` sees them; None where there are none. Raises the same."""
    fact = await facts.glance(SCOPE, STATES)
    return None if fact is None else _states(fact)


def _states(fact: Fact) -> SlotStates:
    try:
        return SlotStates.from_fact(fact)
    except LeaseDamaged as error:
        raise Corrupt(str(error)) from error
