"""The states of a shard's slots, and a worker's lease: what the facts hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self, TypeVar

import msgspec

from shards.facts import Fact
from shards.keys import SLOTS

SCOPE: Final = "slots"
"""Scope, beside each shard's orders, of its states and leases."""

STATES: Final = "states"
"""Name of the one fact that holds the ``SlotStates``; the guard of every grant and renewal."""

LEASE_PREFIX: Final = "lease/"
"""Before the worker's name in the name of its lease."""

WORD_PREFIX: Final = "word/"
"""Before the worker's name in the name of its word."""

LEASE_S: Final = 5.0
"""How long a lease lasts from before it was granted or renewed: five times the interval of renewals, so that a store
may refuse or delay several in a row."""

LEASE_MARGIN: Final = 0.02
"""By this part of its duration a lease ends earlier for the worker than for movers: clocks of two machines need not
run at the same speed (50 times what a bad quartz drifts)."""

_FORMAT: Final = 1


class LeaseDamaged(ValueError):
    """These bytes are no states of slots, or no lease, that this release can read."""


OPEN_PREFIX: Final = "open/"
"""Before a mover's attempt in the name of its word, at which workers open the slots that it has paused."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """Slots that are paused to go elsewhere: a worker opens them there at the word of the mover that paused them.

    The word is a fact beside the states: its revision is that of the states by which the slots were paused. Only who
    acts under those very states, and holds its lease, heeds it.
    """

    gen: int
    """Of the copies: the attempt that paused."""
    revision: int
    """Of the states by which the slots were paused."""
    targets: tuple[tuple[int, int], ...]
    """Slot, and the shard that it goes to; ascending."""

    @property
    def word_name(self) -> str:
        """The name of the fact that is the word."""
        return f"{OPEN_PREFIX}{self.gen}"


@dataclass(frozen=True, slots=True)
class SlotStates:
    """What movers ask of all workers of one shard. Changed by compare-and-set on ``revision``."""

    revision: int = 1
    """Revision of the fact; a lease is always under one of them."""
    attempt: int = 0
    """The attempt of the rebalance whose mover wrote this last; who finds a higher one than its own is deposed."""
    epoch_min: int = 0
    """Epoch of the topology that a worker must know to serve any slot of this shard."""
    is_active: bool = False
    """A move is on or near: workers look for changes often."""
    paused: frozenset[int] = frozenset()
    """Slots that nobody serves from this shard, reads included. All others that the topology places here are served."""
    leaving: Leaving | None = None
    """Of those, the ones that a word may have opened elsewhere. Who takes over keeps it, until that is settled."""

    @property
    def opens(self) -> Leaving | None:
        """What a worker under these states is to open at the word; None: nothing, or no longer."""
        return self.leaving if self.leaving is not None and self.leaving.revision == self.revision else None

    def next(
        self,
        *,
        attempt: int | None = None,
        epoch_min: int | None = None,
        is_active: bool | None = None,
        pause: frozenset[int] = frozenset(),
        unpause: frozenset[int] = frozenset(),
        targets: Mapping[int, int] | None = None,
    ) -> Self:
        """Returns the states that follow, one revision later; what is not named stays. ``epoch_min`` never sinks.

        ``targets``: of slots to pause, when the word of the present attempt is to open them there. What is opened
        again here is not leaving any more.
        """
        revision = self.revision + 1
        attempt = self.attempt if attempt is None else attempt
        leaving = self.leaving
        if targets is not None and leaving is None:  # else something is still to be settled: the topology will tell
            leaving = Leaving(attempt, revision, tuple(sorted(targets.items())))
        elif leaving is not None and unpause:
            left = tuple(pair for pair in leaving.targets if pair[0] not in unpause)
            leaving = replace(leaving, targets=left) if left else None
        return replace(
            self,
            revision=revision,
            attempt=attempt,
            leaving=leaving,
            epoch_min=self.epoch_min if epoch_min is None else max(epoch_min, self.epoch_min),
            is_active=self.is_active if is_active is None else is_active,
            paused=(self.paused | pause) - unpause,
        )

    def to_fact(self) -> Fact:
        """Returns the fact that keeps them."""
        told = _StatesForm(
            _FORMAT,
            self.attempt,
            self.epoch_min,
            is_active=self.is_active,
            paused=tuple(sorted(self.paused)),
            leaving=self.leaving,
        )
        return Fact(self.revision, msgspec.json.encode(told))

    @classmethod
    def from_fact(cls, fact: Fact) -> Self:
        """Returns what ``to_fact`` kept. Raises ``LeaseDamaged``."""
        try:
            told = msgspec.json.decode(fact.value, type=_StatesForm)
        except msgspec.DecodeError as error:
            raise LeaseDamaged(f"the states of the slots cannot be read: {error}") from error
        if told.format != _FORMAT:
            raise LeaseDamaged(f"the states of the slots are of format {told.format}; this release reads {_FORMAT}")
        if any(not 0 <= slot < SLOTS for slot in told.paused):
            raise LeaseDamaged("the states of the slots name one that is none")
        return cls(fact.revision, told.attempt, told.epoch_min, told.is_active, frozenset(told.paused), told.leaving)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """How a worker's operations on one shard went in the last seconds."""

    p99_ms: float = 0.0
    """99 of 100 operations took no longer, waiting at gates included; 0 where there were none."""
    error_rate: float = 0.0
    """Part of the operations that failed because of the shard (0-1)."""
    rate: float = 0.0
    """Operations a second."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to answer for a shard, as its fact holds it. The fact's revision rises with every renewal."""

    worker: str
    """Name of the process, never used again, and the same on all shards."""
    states_revision: int
    """The states it acts under: everything that they ask is done."""
    epoch: int
    """Epoch of the topology it acts under."""
    duration_s: float = LEASE_S
    telemetry: Telemetry = Telemetry()

    def to_fact(self, revision: int) -> Fact:
        """Returns the fact that keeps it."""
        told = _LeaseForm(_FORMAT, self.states_revision, self.epoch, self.duration_s, self.telemetry)
        return Fact(revision, msgspec.json.encode(told))

    @classmethod
    def from_fact(cls, name: str, fact: Fact) -> Self:
        """Returns what ``to_fact`` kept under the name of a fact. Raises ``LeaseDamaged``."""
        if not name.startswith(LEASE_PREFIX):
            raise LeaseDamaged(f"{name} is not the name of a lease")
        told = _told(name, fact, _LeaseForm)
        worker = name.removeprefix(LEASE_PREFIX)
        return cls(worker, told.states_revision, told.epoch, told.duration_s, told.telemetry)

    @property
    def fact_name(self) -> str:
        """The name of the fact that keeps it."""
        return LEASE_PREFIX + self.worker


@dataclass(frozen=True, slots=True)
class Word:
    """What a worker will never go behind again, told beside its lease: true for as long as the process lives.

    It gives no right to anything, so it needs no condition, and arrives sooner than a renewal that says the same.
    """

    worker: str
    states_revision: int
    """No operation is answered that these states, or any before, have ended; all that they ask is done."""
    epoch: int
    """It acts under the topology of this epoch, or a later one."""

    def to_fact(self, revision: int) -> Fact:
        """Returns the fact that tells it; revisions rise."""
        return Fact(revision, msgspec.json.encode(_WordForm(_FORMAT, self.states_revision, self.epoch)))

    @classmethod
    def from_fact(cls, name: str, fact: Fact) -> Self:
        """Returns what ``to_fact`` told under the name of a fact. Raises ``LeaseDamaged``."""
        told = _told(name, fact, _WordForm)
        return cls(name.removeprefix(WORD_PREFIX), told.states_revision, told.epoch)

    @property
    def fact_name(self) -> str:
        """The name of the fact that tells it."""
        return WORD_PREFIX + self.worker


class _StatesForm(msgspec.Struct, frozen=True):
    """How the states are kept: JSON, so that an operator can read it in a database shell."""

    format: int
    attempt: int
    epoch_min: int
    is_active: bool
    paused: tuple[int, ...]
    leaving: Leaving | None = None


class _LeaseForm(msgspec.Struct, frozen=True):
    """How a lease is kept."""

    format: int
    states_revision: int
    epoch: int
    duration_s: float
    telemetry: Telemetry


class _WordForm(msgspec.Struct, frozen=True):
    """How a word is told."""

    format: int
    states_revision: int
    epoch: int


_FormT = TypeVar("_FormT", _LeaseForm, _WordForm)


def _told(name: str, fact: Fact, form: type[_FormT]) -> _FormT:
    """Returns what a fact tells. Raises ``LeaseDamaged`` for what this release cannot read."""
    try:
        told = msgspec.json.decode(fact.value, type=form)
    except msgspec.DecodeError as error:
        raise LeaseDamaged(f"{name} cannot be read: {error}") from error
    if told.format != _FORMAT:
        raise LeaseDamaged(f"{name} is of format {told.format}; this release reads {_FORMAT}")
    return told
