"""What there is in the model of a moving slot: one slot, one order in it, two shards, some workers and a mover.

An order is a *chain*: a string with one letter for each request that made a version of it (``"ct"``: created, then
changed by ``t``), so that a lost, a doubled and a forked order all show. Time is counted in ticks of one lease; only
durations are used, as in the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

LEASE: Final = 1
"""Length of a lease in ticks. One is enough: every order of "it ran out" and of any other event is explored."""

TRIES_MAX: Final = 2
"""How often the rest of a slot is copied before the slot is given up as stuck."""


class Place(NamedTuple):
    """What the topology says of the slot."""

    epoch: int
    shard: int
    gen: int


class Leaving(NamedTuple):
    """What a pause says of itself: the slot is opened on the other shard when the mover gives its word."""

    gen: int
    """Of the copy; the attempt of the mover that paused."""
    revision: int
    """Of the document that the pause made: the word names it."""


class Doc(NamedTuple):
    """The slot states document of a shard."""

    revision: int
    is_paused: bool
    epoch_min: int
    attempt: int = 0
    """Of the mover that wrote it last: one of an earlier attempt that reads this is at its end."""
    leaving: Leaving | None = None
    """Of a slot that is paused: kept, as it is, by whoever takes over, until it is decided whether it was opened."""

    @property
    def opens(self) -> int:
        """Gen under which a worker that acts under this document opens the slot at the mover's word; 0: not at all."""
        return self.leaving.gen if self.leaving is not None and self.leaving.revision == self.revision else 0


class Lease(NamedTuple):
    """A worker's row in a shard's control partition; ``left`` ticks until it is surely dead."""

    revision: int
    epoch: int
    left: int


class Renewal(NamedTuple):
    """A renewal on its way; ``left`` ticks are what the worker will believe when the answer arrives."""

    revision: int
    epoch: int
    left: int
    has_landed: bool


class View(NamedTuple):
    """What a worker has read of a shard's slot states document."""

    revision: int
    is_paused: bool
    opens: int = 0
    """See ``Doc.opens``."""


class Word(NamedTuple):
    """What a worker has told a shard that it will never again act before. It has no condition, and lends no time."""

    revision: int
    epoch: int


SILENT: Final = Word(0, 0)


class Op(NamedTuple):
    """A caller's operation under way in a worker, bound to the shard and gen it began under."""

    kind: str
    shard: int
    gen: int
    noted: int
    """Of a read: how many versions had been shown to callers when it began."""
    phase: str
    """``begun``, ``sent`` (a write or a seal is on its way) or ``known`` (the store has answered)."""
    chain: str
    """What was sent, or what the store answered."""


class Worker(NamedTuple):
    """One worker process. Pairs are per shard."""

    known: Place
    """What it knows of the topology; the slot as it has opened it, where that is later."""
    views: tuple[View, View]
    valid: tuple[int, int]
    """Ticks for which it believes in its leases."""
    leases: tuple[Lease | None, Lease | None]
    """Its rows in the shards' control partitions."""
    renewals: tuple[Renewal | None, Renewal | None]
    words: tuple[Word, Word]
    """Its words beside its leases; ``SILENT`` also where the lease says as much."""
    op: Op | None


class Mover(NamedTuple):
    """A mover. What stands before ``revision``, but for the step, it has from the record."""

    step: str
    move: int
    attempt: int
    """The fence that it raised when it took over: gen of its copies."""
    gen: int
    """Of the slot's rows at the source."""
    is_cancelling: bool
    revision: int = 0
    """Of the source's document, as it wrote or read it last."""
    epoch: int = 0
    is_chained: bool = False
    """It made this epoch itself, and looked at the record before the first one that it made."""
    timer: int = 0
    """Ticks until every lease that has not confirmed is dead."""
    tries: int = 0
    opened: int = 0
    """Gen under which an earlier mover's word has opened the slot; 0: none has."""
    read: str = ""
    """What it has read at the source (used by mutants that trust it)."""


class Message(NamedTuple):
    """A durable write on its way, that may arrive at any later moment, or never."""

    what: str
    """``write``, ``place``, ``drop``, ``seal``, ``doc``, ``topology`` or ``word`` (of a mover)."""
    shard: int
    number: int
    """Gen of a row; expected revision of a document; expected epoch; revision that a mover's word is about."""
    value: str | Doc | Place


class State(NamedTuple):
    """Everything."""

    place: Place
    docs: tuple[Doc, Doc]
    rows: tuple[tuple[str, ...], tuple[str, ...]]
    """The order's chain by shard and gen; empty where there is no row."""
    sealed: tuple[bool, bool]
    workers: tuple[Worker, ...]
    mover: Mover
    deposed: Mover | None
    """One that was thought dead and goes on beside its successor."""
    attempt: int
    """Of the record: that of the mover that took over last."""
    late: tuple[Message, ...]
    said: tuple[tuple[int, int], ...]
    """Words of movers that have landed: shard, and revision of the document that they are about."""
    shown: str
    """The longest chain that any caller has been shown: all of it must stay."""
    is_refused: bool
    """A caller was told that the order is not there and never will be."""
    todo: str
    """Operations yet to begin: c creates, t and u change, r reads, x creates with an id of a bucket to be sealed."""
    crashes: int
    cancels: int
    damages: int

    @property
    def truth(self) -> str:
        """The order where the topology says that it is, or where it was opened since."""
        for shard, doc in enumerate(self.docs):
            leaving = doc.leaving
            if leaving is not None and (shard, leaving.revision) in self.said and self.place.gen < leaving.gen:
                return self.rows[1 - shard][leaving.gen]
        return self.rows[self.place.shard][self.place.gen]


@dataclass(frozen=True, slots=True)
class Scope:
    """How large a world is explored."""

    name: str
    todo: str
    workers: int = 1
    moves: tuple[tuple[int, int], ...] = ((0, 1),)
    crashes: int = 0
    """How often a mover dies, leaving its last write on its way or not."""
    has_deposed: bool = False
    """A mover that is thought dead may go on instead."""
    cancels: int = 0
    damages: int = 0
    has_split_renewals: bool = False
    """Renewals are sent, land and are answered one by one, and any of that may be lost; else in one step."""
    has_words: bool = True
    """Workers give their word beside their leases, and movers theirs, at which slots are opened."""
    chain: str = ""
    """The order before all begins."""
    first_step: str = "copy"
    """What the first mover is about to do."""

    def first_state(self) -> State:
        """Returns the state in which all workers hold leases, and the slot is on shard 0."""
        place, doc = Place(1, 0, 0), Doc(1, is_paused=False, epoch_min=0)
        lease, view = Lease(1, 1, LEASE), View(1, is_paused=False)
        gens = len(self.moves) + self.cancels + self.crashes * 3
        worker = Worker(place, (view, view), (LEASE, LEASE), (lease, lease), (None, None), (SILENT, SILENT), None)
        return State(
            place=place,
            docs=(doc, doc),
            rows=((self.chain, *("",) * gens), ("",) * (gens + 1)),
            sealed=(False, False),
            workers=(worker,) * self.workers,
            mover=Mover(self.first_step, 0, 1, 0, is_cancelling=False, revision=1),
            deposed=None,
            attempt=1,
            late=(),
            said=(),
            shown=self.chain,
            is_refused=False,
            todo="".join(sorted(self.todo)),
            crashes=self.crashes,
            cancels=self.cancels,
            damages=self.damages,
        )
