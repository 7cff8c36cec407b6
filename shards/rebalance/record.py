"""The record of a rebalance: what moves where, how far operators have let it go, and who said so. Pure.

One fact holds the present record, the last one when none is under way. It changes by compare-and-set on the fact's
revision, by operators' commands and by the leading mover. Which slots have moved is not in it: the topology says so,
and nothing else does.

**Attempts are fences.** ``attempt`` rises with every start, with every resume after a cancel and with every change of
the leading mover, and is never used again. It is the gen under which slots are copied, the mark on every pause, and
what a mover looks at before it flips: so whatever an earlier mover left in flight lands where nobody reads, or is
refused.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import msgspec

from shards.homes import BESIDE
from shards.topology import ShardInfo, Topology

SCOPE: Final = BESIDE
"""Scope of the facts about rebalancing, where the topology is kept."""

RECORD: Final = "current"
"""Name of the fact that holds the ``RebalanceRecord``."""

HISTORY: Final = "history"
"""Name of the fact that holds the ``Finished`` ones."""

COMMANDS_MAX: Final = 100
"""Commands that a record remembers; the first one, which began it, and the newest."""

STUCK_MAX: Final = 64
"""Stuck slots that are named; more are counted."""

HISTORY_MAX: Final = 100
"""Finished rebalances that are remembered, the newest."""

_FORMAT: Final = 2
"""Of records. Movers that wrote 1 knew no words that open slots: they must not take over from one that gives them."""

_READ: Final = (1, 2)
_HISTORY_FORMAT: Final = 1


class RecordDamaged(ValueError):
    """These bytes are not a record that this release can read."""


class IllegalStep(ValueError):
    """A command that does not fit now. The text says what does, and so does ``legal``: words of the command line."""

    def __init__(self, text: str, legal: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.legal: Final = tuple(legal)


class OptionsRefused(ValueError):
    """Options that no mover can follow. ``option`` is the name of the one that is wrong."""

    def __init__(self, option: str, text: str) -> None:
        super().__init__(text)
        self.option: Final = option


class Kind(enum.Enum):
    """What a rebalance is for."""

    ADD = "add"
    """Give a new shard its share."""
    DRAIN = "drain"
    """Empty a shard and let it go."""
    REWEIGHT = "reweight"
    """Give shards other shares."""
    SPLIT = "split"
    """Take named slots off their shard."""
    REVERSE = "reverse"
    """Go back to the placement before the last rebalance."""


class State(enum.Enum):
    """How far operators, and the work itself, have let a rebalance go."""

    RUNNING = "running"
    PAUSED = "paused"
    """Nothing is under way: the slots that were have been finished or undone. By command, or because what is left
    is stuck."""
    CANCELLING = "cancelling"
    """The slots under way are being finished or undone."""
    CANCELLED = "cancelled"
    """The slots that had moved stay where they are."""
    DONE = "done"
    """Every slot has moved, and the shards are those wanted."""


class Command(enum.Enum):
    """What operators, and the mover, do to a record."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    TAKE_OVER = "take over"
    """A mover begins to lead."""
    FINISH = "finish"
    """The mover has done all there was to do, or to undo."""
    CLEAN_UP = "clean up"

    @property
    def word(self) -> str:
        """What operators say, and type, for it."""
        return "cleanup" if self is Command.CLEAN_UP else self.value


_STEPS: Final[Mapping[tuple[State, Command], State]] = {
    (State.RUNNING, Command.PAUSE): State.PAUSED,
    (State.PAUSED, Command.RESUME): State.RUNNING,
    (State.CANCELLED, Command.RESUME): State.RUNNING,
    (State.RUNNING, Command.CANCEL): State.CANCELLING,
    (State.PAUSED, Command.CANCEL): State.CANCELLING,
    (State.RUNNING, Command.FINISH): State.DONE,
    (State.CANCELLING, Command.FINISH): State.CANCELLED,
    (State.RUNNING, Command.TAKE_OVER): State.RUNNING,
    (State.PAUSED, Command.TAKE_OVER): State.PAUSED,
    (State.CANCELLING, Command.TAKE_OVER): State.CANCELLING,
    (State.DONE, Command.CLEAN_UP): State.DONE,
    (State.CANCELLED, Command.CLEAN_UP): State.CANCELLED,
}
"""Every legal step. ``START`` makes a record of its own, where ``may_start`` allows it."""


class Move(NamedTuple):
    """One slot that is to change its shard."""

    slot: int
    source: int
    target: int
    old_gen: int
    """The gen of the slot when the rebalance was begun: of the copy that stays behind on the source."""


class Entry(NamedTuple):
    """One command: what, who and when."""

    at_unix_ms: int
    who: str
    command: Command
    detail: str = ""


class Stuck(NamedTuple):
    """A slot that is not flipped, and why. The rest goes on without it."""

    slot: int
    reason: str
    """One line for the operator."""
    order_ids: tuple[str, ...] = ()
    """Orders whose copies differ, as UUID text; the first few."""


class Options(NamedTuple):
    """How a rebalance goes about it; an operator may change them with ``resume``."""

    keep_p99_ms: float | None = None
    """Callers' p99 latency above which the copying slows down, and at last waits; None: whatever it costs."""
    keep_error_rate: float = 0.01
    """The same for the share (0-1) of callers' operations that fail."""
    slots_at_once: int = 16
    """Most slots that are copied at once, 1-``SLOTS_AT_ONCE_MAX``."""
    rows_per_s_max: int | None = None
    """Most rows copied a second, over all shards; None: as the throttle allows."""
    soak_s: int = 3_600
    """Seconds after the end before which ``cleanup`` keeps the copies left behind."""


SLOTS_AT_ONCE_MAX: Final = 256
"""What a mover holds in memory grows with it: some 150 bytes an order of the slots under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceRecord:
    """One rebalance. Immutable; each change gives another one, to be stored by compare-and-set."""

    id: int
    """The attempt that it began with: ids rise, with gaps, for each change of the leading mover takes a number, too."""
    attempt: int
    """The fence, see above; from 1, and above every gen of the topology it began with."""
    kind: Kind
    state: State
    moves: tuple[Move, ...]
    """The slots to move, ascending."""
    shards_before: tuple[tuple[int, int], ...]
    """Id and weight of each shard when it began, but of those that were only there to be cleaned up."""
    shards_after: tuple[tuple[int, int], ...]
    """The same when it is done. A shard only here is added first of all, one only in ``shards_before`` removed last."""
    options: Options
    entries: tuple[Entry, ...] = ()
    """Oldest first."""
    stuck: tuple[Stuck, ...] = ()
    stuck_count: int = 0
    undo_under_way: bool = False
    """A cancel was asked to undo the slots under way; else it finishes them."""
    finished_unix_ms: int = 0
    """When it was done or cancelled; 0 before."""
    is_clean: bool = False
    """No copy is left behind: what slots have left, and what was copied in vain, is deleted."""
    reverses: int = 0
    """Of a REVERSE: the id of the rebalance it takes back."""

    @property
    def is_open(self) -> bool:
        """Tells whether a mover has anything to do."""
        return self.state in {State.RUNNING, State.PAUSED, State.CANCELLING}

    def legal(self) -> tuple[Command, ...]:
        """Returns the operators' commands that may follow, START included."""
        told = [command for (state, command) in _STEPS if state is self.state and command in _OPERATORS]
        if self.is_clean and Command.CLEAN_UP in told:
            told.remove(Command.CLEAN_UP)
        return (*told, *(() if self.is_open else (Command.START,)))

    @property
    def next_words(self) -> tuple[str, ...]:
        """What operators may type next: the legal steps and, once it is over, ``reverse`` and ``verify``."""
        words = tuple(command.word for command in self.legal())
        if self.is_open or not self.moves:
            return words
        # what was emptied is let go by the clean-up, and then there is no way back
        emptied = {shard for shard, _ in self.shards_before} - {shard for shard, _ in self.shards_after}
        is_gone = self.is_clean and self.state is State.DONE and emptied
        return (*words, "verify") if is_gone else (*words, "reverse", "verify")

    def refusal(self, why: str = "") -> IllegalStep:
        """Returns the error for a command that does not fit, with what would; ``why`` in place of the state."""
        words = self.next_words
        return IllegalStep(
            f"rebalance {self.id} {why or f'is {self.state.value}'}; it allows: {', '.join(words) or 'nothing'}", words
        )

    def after(self, command: Command, who: str, detail: str = "", *, at_unix_ms: int | None = None) -> Self:
        """Returns the record after a command. Raises ``IllegalStep``; its text says what would be legal."""
        following = _STEPS.get((self.state, command))
        if following is None:
            raise self.refusal()
        now_ms = _now_ms() if at_unix_ms is None else at_unix_ms
        entries = (*self.entries, Entry(now_ms, who, command, detail))
        if len(entries) > COMMANDS_MAX:
            entries = (entries[0], *entries[-(COMMANDS_MAX - 1) :])
        is_fenced = command is Command.TAKE_OVER or (command is Command.RESUME and self.state is State.CANCELLED)
        begun = self
        if command in {Command.RESUME, Command.TAKE_OVER}:  # what was stuck is tried again
            begun = replace(self, stuck=(), stuck_count=0, finished_unix_ms=0, is_clean=False)
        return replace(
            begun,
            state=following,
            attempt=self.attempt + is_fenced,
            entries=entries,
            finished_unix_ms=now_ms if command is Command.FINISH else begun.finished_unix_ms,
            is_clean=begun.is_clean or command is Command.CLEAN_UP,
        )

    def with_stuck(self, stuck: Iterable[Stuck]) -> Self:
        """Returns the record with these slots named as stuck, each once, the newest reason of each."""
        by_slot = {one.slot: one for one in (*self.stuck, *stuck)}
        new = len(by_slot) - len(self.stuck)
        named = tuple(by_slot[slot] for slot in sorted(by_slot))[:STUCK_MAX]
        return replace(self, stuck=named, stuck_count=self.stuck_count + new)

    def remaining(self, topology: Topology) -> tuple[Move, ...]:
        """Returns the moves that the topology has not seen yet, ascending by slot."""
        return tuple(move for move in self.moves if topology.slot_shards[move.slot] != move.target)

    def moved(self, topology: Topology) -> tuple[Move, ...]:
        """Returns the moves that are done, ascending by slot."""
        return tuple(move for move in self.moves if topology.slot_shards[move.slot] == move.target)

    def finished(self, topology: Topology) -> Finished:
        """Returns what the history keeps of it, as it stands now. ``topology``: the present one."""
        slots, moved = len(self.moves), len(self.moved(topology))
        return Finished(self.id, self.kind, self.state, slots, moved, self.finished_unix_ms, self.entries)

    def to_bytes(self) -> bytes:
        """Returns the record as bytes; ``from_bytes`` reads them."""
        return _encode((_FORMAT, self))

    @classmethod
    def from_bytes(cls, raw: bytes) -> RebalanceRecord:
        """Returns the record that ``to_bytes`` wrote. Raises ``RecordDamaged`` for anything else."""
        _check_format(raw)
        try:
            return _decode_record(raw)[1]
        except (msgspec.MsgspecError, ValueError) as error:
            raise RecordDamaged(f"{len(raw)} bytes that are no record of a rebalance: {error}") from error


_OPERATORS: Final = frozenset({Command.PAUSE, Command.RESUME, Command.CANCEL, Command.CLEAN_UP})


class Finished(NamedTuple):
    """What the history keeps of a rebalance that is over."""

    id: int
    kind: Kind
    state: State
    slots: int
    """Slots that were to move."""
    moved: int
    """Slots that did."""
    finished_unix_ms: int
    entries: tuple[Entry, ...]


def start(
    topology: Topology,
    targets: Mapping[int, int],
    shards_after: Iterable[ShardInfo],
    *,
    kind: Kind,
    who: str,
    last: RebalanceRecord | None = None,
    options: Options | None = None,
    at_unix_ms: int | None = None,
) -> RebalanceRecord:
    """Returns the record of a new rebalance that moves the slots of ``targets`` (slot to shard).

    ``last`` is the record that the fact holds now; a REVERSE takes back that one. Raises ``IllegalStep`` when it is
    still open.
    """
    if last is not None and last.is_open:
        raise last.refusal()
    attempt = max(*topology.slot_gens, 0 if last is None else last.attempt) + 1
    moves = tuple(
        Move(slot, topology.slot_shards[slot], target, topology.slot_gens[slot])
        for slot, target in sorted(targets.items())
        if topology.slot_shards[slot] != target
    )
    now_ms = _now_ms() if at_unix_ms is None else at_unix_ms
    return RebalanceRecord(
        id=attempt,
        attempt=attempt,
        kind=kind,
        state=State.RUNNING,
        moves=moves,
        shards_before=tuple((info.id, info.weight) for info in staying(topology, last)),
        shards_after=tuple((info.id, info.weight) for info in sorted(shards_after)),
        options=Options() if options is None else options,
        entries=(Entry(now_ms, who, Command.START, f"{kind.value}: {len(moves)} slots"),),
        reverses=last.id if last is not None and kind is Kind.REVERSE else 0,
    )


def staying(topology: Topology, last: RebalanceRecord | None) -> tuple[ShardInfo, ...]:
    """Returns the shards of the topology but those that the last rebalance, or one before it, has emptied.

    These are there only until ``cleanup`` lets them go: nothing is placed on them meanwhile, but by a REVERSE.
    """
    if last is None:
        return topology.shards
    named = last.shards_after if last.state is State.DONE else (*last.shards_before, *last.shards_after)
    kept = {shard for shard, _ in named} | set(topology.slot_shards)
    return tuple(info for info in topology.shards if info.id in kept)


def history_to_bytes(finished: Iterable[Finished]) -> bytes:
    """Returns the newest ``HISTORY_MAX`` of them (oldest first) as bytes."""
    return _encode((_HISTORY_FORMAT, tuple(finished)[-HISTORY_MAX:]))


def history_from_bytes(raw: bytes) -> tuple[Finished, ...]:
    """Returns what ``history_to_bytes`` wrote, oldest first. Raises ``RecordDamaged``."""
    _check_format(raw)
    try:
        return _decode_history(raw)[1]
    except (msgspec.MsgspecError, ValueError) as error:
        raise RecordDamaged(f"{len(raw)} bytes that are no history: {error}") from error


_encode: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_decode_record: Final = msgspec.msgpack.Decoder(tuple[int, RebalanceRecord]).decode
_decode_history: Final = msgspec.msgpack.Decoder(tuple[int, tuple[Finished, ...]]).decode
_decode_head: Final = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw]).decode


def _check_format(raw: bytes) -> None:
    try:
        form = _decode_head(raw)[0]
    except msgspec.MsgspecError as error:
        raise RecordDamaged(f"{len(raw)} bytes that are no record: {error}") from error
    if form not in _READ:
        raise RecordDamaged(f"a record of format {form}; this release reads formats up to {_FORMAT}")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
