"""What the stores do with a durable write, by the laws of ``shards.contract``: the one place where rows change."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from tests.model.state import SILENT, Doc, Message, Place, State

_T = TypeVar("_T")


class Broken(Exception):
    """A promise of the protocol is broken; the text says which."""


def put(pair: tuple[_T, _T], at: int, value: _T) -> tuple[_T, _T]:
    """Returns the pair with one of its two values replaced."""
    return (value, pair[1]) if at == 0 else (pair[0], value)


def silenced(state: State) -> State:
    """Returns the state without words of workers, when no mover waits for those any more; who is asked tells again."""
    if all(worker.words == (SILENT, SILENT) for worker in state.workers):
        return state
    return state._replace(workers=tuple(worker._replace(words=(SILENT, SILENT)) for worker in state.workers))


def _is_heard(state: State, shard: int, revision: int) -> bool:
    """Tells whether a mover's word about a revision can still open the slot, or tell somebody that it was opened."""
    leaving = state.docs[shard].leaving
    if leaving is not None and leaving.revision == revision:
        return True
    return any(worker.views[shard].revision == revision for worker in state.workers)


def hushed(state: State) -> State:
    """Returns the state without those words of movers, landed or late, that nobody will ever heed."""
    said = tuple(word for word in state.said if _is_heard(state, *word))
    late = tuple(m for m in state.late if m.what != "word" or _is_heard(state, m.shard, m.number))
    return state if (said, late) == (state.said, state.late) else state._replace(said=said, late=late)


def put_row(state: State, shard: int, gen: int, chain: str) -> State:
    """Returns the state with one row replaced."""
    gens = state.rows[shard]
    return state._replace(rows=put(state.rows, shard, (*gens[:gen], chain, *gens[gen + 1 :])))


def land(state: State, message: Message, mutants: Collection[str]) -> State | None:
    """Returns the state after a durable write arrived, or None where its condition does not hold."""
    _, shard, number, value = message
    if isinstance(value, Doc):
        present = state.docs[shard].revision == number
        return hushed(silenced(state._replace(docs=put(state.docs, shard, value)))) if present else None
    if isinstance(value, Place):
        present = state.place.epoch == number or "flip is unconditional" in mutants
        return state._replace(place=value) if present else None
    if message.what == "word":
        return state._replace(said=tuple(sorted({*state.said, (shard, number)})))
    return _land_row(state, message, mutants)


def _land_row(state: State, message: Message, mutants: Collection[str]) -> State | None:
    what, shard, number, value = message
    if what == "seal":
        return state._replace(sealed=put(state.sealed, shard, value=True))
    if what == "drop":
        return put_row(state, shard, number, "")
    assert isinstance(value, str)
    row = state.rows[shard][number]
    if what == "place":
        replaces = len(value) > len(row) or "copies are placed unconditionally" in mutants
        return put_row(state, shard, number, value) if replaces and value else state
    assert what == "write"
    if len(row) != len(value) - 1 or (not row and state.sealed[shard]):
        return None
    return put_row(state, shard, number, value)


def send_late(state: State, message: Message, mutants: Collection[str]) -> State:
    """Returns the state with one more write on its way, of which nobody waits for the outcome."""
    return state if is_spent(state, message, mutants) else state._replace(late=tuple(sorted({*state.late, message})))


def is_spent(state: State, message: Message, mutants: Collection[str]) -> bool:
    """Tells whether a write can have no effect any more: revisions, and rows of a gen that is used, only grow."""
    what, shard, number, value = message
    if what == "doc":
        return state.docs[shard].revision > number
    if what == "word":
        return not _is_heard(state, shard, number) or (shard, number) in state.said
    if what == "topology":
        return state.place.epoch > number and "flip is unconditional" not in mutants
    if what == "seal":
        return state.sealed[shard]
    if what == "drop":
        return False
    assert isinstance(value, str)
    return len(state.rows[shard][number]) >= len(value) and "copies are placed unconditionally" not in mutants


def show(state: State, op_noted: int, answered: str, *, is_read: bool) -> State:
    """Returns the state after a caller was shown a chain. Raises ``Broken`` where it was not to be shown."""
    if is_read and len(answered) < op_noted:
        raise Broken(f"STALE: a caller reads {answered!r}, and before the read began {state.shown!r} had been shown")
    if not (state.shown.startswith(answered) or answered.startswith(state.shown)):
        raise Broken(f"FORKED: a caller is shown {answered!r}, and another one was shown {state.shown!r}")
    return state._replace(shown=answered) if len(answered) > len(state.shown) else state


def check(state: State) -> None:
    """Raises ``Broken`` where what callers were shown is not what is there."""
    truth = state.truth
    if not truth.startswith(state.shown):
        what = "UNREACHABLE" if any(state.shown in chain for gens in state.rows for chain in gens) else "LOST"
        raise Broken(f"{what}: callers were shown {state.shown!r}, and the order is {truth!r}")
    if state.is_refused and truth:
        raise Broken(f"DOUBLED: a caller was told to order anew, and the order is there after all: {truth!r}")
