"""What movers do: copy, pause, wait for confirmations, copy the rest, compare, flip, open, clean up; or undo.

Each durable step is one message to a store. It succeeds, or fails because its condition does not hold, or the mover
dies with the message still on its way. A mover that is thought dead may also go on, beside its successor, for as long
as it likes: nobody's clock is trusted with that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from tests.model.state import LEASE, TRIES_MAX, Doc, Leaving, Message, Mover, Place, Scope, State
from tests.model.stores import land, put_row, send_late, silenced

Step = tuple[str, State]

_UNDOABLE: Final = frozenset({"copy", "pause", "confirm", "rest", "digest", "say"})

_END: Final = Mover("end", 0, 0, 0, is_cancelling=False)


def steps(state: State, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Yields everything that movers may do next, and what may happen to them."""
    mover = state.mover
    for what, after in _work(state, mover, scope, mutants):
        yield f"mover {what}", after
    if state.deposed is not None:
        swapped = state._replace(mover=state.deposed, deposed=None, crashes=0)
        for what, after in _work(swapped, state.deposed, scope, mutants):
            old = None if after.mover.step == "end" else after.mover
            yield f"OLD mover {what}", after._replace(mover=mover, deposed=old, crashes=state.crashes)
    if mover.step == "end":
        return
    is_undoable = mover.step in _UNDOABLE
    if "what a word has opened is undone" in mutants:
        is_undoable = is_undoable or mover.step in {"look", "ask", "flip"}
    if state.cancels and is_undoable:
        fewer = state._replace(cancels=state.cancels - 1)
        yield "operator cancels", fewer._replace(mover=mover._replace(step="undo", is_cancelling=True))
        yield "operator has the moves rest for a while", fewer._replace(mover=mover._replace(step="undo"))
    if state.crashes:
        dead = _dead(state, mover)
        yield "mover dies, and another one begins", dead
        if scope.has_deposed:
            yield "mover is thought dead, and another one begins", dead._replace(deposed=mover)


def late_steps(state: State, mutants: Collection[str]) -> Iterator[Step]:
    """Yields the arrival of each write of which nobody waits for the outcome."""
    for message in state.late:
        left = state._replace(late=tuple(other for other in state.late if other != message))
        after = land(left, message, mutants)
        what, shard, number, value = message
        words = f"late {what} ({value or '-'}) for shard {shard}, {'gen' if isinstance(value, str) else 'at'} {number}"
        yield (f"{words} arrives" if after is not None else f"{words} arrives and is refused"), after or left


def _dead(state: State, mover: Mover) -> State:
    return state._replace(mover=_anew(mover), crashes=state.crashes - 1)


def _anew(mover: Mover) -> Mover:
    """Returns a mover that knows the record and nothing else."""
    return Mover("take over", mover.move, 0, mover.gen, is_cancelling=mover.is_cancelling)


def _work(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    if mover.step != "end":
        yield from _STEPS[mover.step](state, mover, scope, mutants)


def _do(state: State, mover: Mover, message: Message, done: Mover, mutants: Collection[str]) -> Iterator[Step]:
    """One durable step: done, refused, or left on its way by a mover that dies."""
    words = f"{mover.step}: {message.what} of shard {message.shard}"
    after = land(state, message, mutants)
    if after is None:
        is_leader = mover.attempt == state.attempt
        yield f"{words}: refused", state._replace(mover=_anew(mover) if is_leader else _END)
        return
    yield words, after._replace(mover=done)
    if state.crashes:
        yield f"{words}: dies with it on its way", send_late(_dead(state, mover), message, mutants)


def _source(mover: Mover, scope: Scope) -> tuple[int, int, int]:
    """Returns source and target shard, and the gen of the slot's rows at the source."""
    return *scope.moves[mover.move], mover.gen


def _copying(state: State, mover: Mover, scope: Scope, mutants: Collection[str], after: str) -> Iterator[Step]:
    source, target, gen = _source(mover, scope)
    chain = state.rows[source][gen]
    done = mover._replace(step=after, read=chain)
    if not chain:
        yield f"{mover.step}: finds nothing to copy", state._replace(mover=done)
        return
    yield from _do(state, mover, Message("place", target, mover.attempt, chain), done, mutants)
    if state.damages:
        fewer = state._replace(mover=done, damages=state.damages - 1)
        yield f"{mover.step}: the copy of {chain!r} is left out unnoticed", fewer
        late = send_late(fewer._replace(mover=mover), Message("place", target, mover.attempt, chain), mutants)
        yield f"{mover.step}: the copy of {chain!r} times out, and may yet arrive", late
        if len(state.rows[target][mover.attempt]) < len(chain):
            flipped = put_row(fewer, target, mover.attempt, chain.upper())
            yield f"{mover.step}: the copy of {chain!r} has a byte flipped", flipped


def _copy(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    yield "goes on without copying more", state._replace(mover=mover._replace(step="pause", read=""))
    yield from _copying(state, mover, scope, mutants, "pause")


def _pause(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    source, _, _ = _source(mover, scope)
    if "lease counted from before the write" in mutants and mover.tries == 0:
        yield "starts to count", state._replace(mover=mover._replace(timer=LEASE, tries=1))
        return
    timer = mover.timer if "lease counted from before the write" in mutants else LEASE
    revision = mover.revision + 1
    leaving = Leaving(mover.attempt, revision) if scope.has_words else None
    before = state.docs[source]
    paused = before._replace(revision=revision, is_paused=True, attempt=mover.attempt, leaving=leaving)
    done = mover._replace(step="confirm", revision=mover.revision + 1, timer=timer, tries=0)
    yield from _do(state, mover, Message("doc", source, mover.revision, paused), done, mutants)


def _confirm(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    source, _, _ = _source(mover, scope)
    all_confirmed = all(
        lease is None or max(lease.revision, worker.words[source].revision) >= mover.revision
        for worker in state.workers
        for lease in (worker.leases[source],)
    )
    if "the pause is not waited for" in mutants:
        yield "waits for nobody", state._replace(mover=mover._replace(step="rest"))
    elif mover.timer == 0 or all_confirmed:
        why = "has every confirmation" if all_confirmed else "has waited for all leases to end"
        yield why, silenced(state)._replace(mover=mover._replace(step="rest", timer=0))


def _rest(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    if "the rest is not copied" in mutants:
        yield "copies no rest", state._replace(mover=mover._replace(step="digest"))
        return
    yield from _copying(state, mover, scope, mutants, "seals")


def _seals(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    source, target, _ = _source(mover, scope)
    done = mover._replace(step="digest")
    if state.sealed[source] and not state.sealed[target] and "seals are not repeated" not in mutants:
        yield from _do(state, mover, Message("seal", target, 0, ""), done, mutants)
    else:
        yield "finds no seal to repeat", state._replace(mover=done)


def _digest(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    source, target, gen = _source(mover, scope)
    theirs = mover.read if "the rest is not copied" in mutants else state.rows[source][gen]
    if theirs == state.rows[target][mover.attempt] or "digests are not compared" in mutants:
        is_said = state.docs[source].leaving is not None
        equal = mover._replace(step="say" if is_said else _to_flip(mover), tries=0)
        yield "finds the digests equal", state._replace(mover=equal)
    elif mover.tries + 1 < TRIES_MAX:
        again = mover._replace(step="rest", tries=mover.tries + 1)
        yield "finds the digests different and copies again", state._replace(mover=again)
    else:
        stuck = mover._replace(step="undo", tries=TRIES_MAX)
        yield "finds the digests different still: the slot is stuck", state._replace(mover=stuck)


def _to_flip(mover: Mover) -> str:
    """Whoever has made the last epoch itself, in a chain that began with a look at the record, need not look again."""
    return "flip" if mover.is_chained else "look"


def _say(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Gives the word at which workers open the slot on the target. From here on there is no way back."""
    source, _, _ = _source(mover, scope)
    word = Message("word", source, mover.revision, "")
    done = mover._replace(step=_to_flip(mover))
    yield from _do(state, mover, word, done, mutants)
    if state.crashes or state.damages:
        yield "say: times out, and may yet arrive", send_late(state._replace(mover=done), word, mutants)


def _look(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    del scope
    step = "flip" if "the record is not read before a flip" in mutants else "ask"
    yield f"reads epoch {state.place.epoch}", state._replace(mover=mover._replace(step=step, epoch=state.place.epoch))


def _ask(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Reads the record, after the epoch: a successor raises the attempt first and the epoch then."""
    del scope
    if state.attempt != mover.attempt:
        yield "reads that another one has taken over", state._replace(mover=_END)
    elif "the record is read before the topology" in mutants and mover.tries == 0:
        yield "reads that it still leads", state._replace(mover=mover._replace(step="late look"))
    else:
        yield "reads that it still leads", state._replace(mover=mover._replace(step="flip"))


def _late_look(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    del scope, mutants
    yield f"reads epoch {state.place.epoch}", state._replace(mover=mover._replace(step="flip", epoch=state.place.epoch))


def _flip(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    _, target, _ = _source(mover, scope)
    flipped = Place(mover.epoch + 1, target, mover.opened or mover.attempt)
    if "a successor flips to a gen of its own" in mutants:
        flipped = flipped._replace(gen=mover.attempt)
    done = mover._replace(step="known", epoch=mover.epoch + 1, timer=0)
    message = Message("topology", 0, mover.epoch, flipped)
    if mover.is_chained and land(state, message, mutants) is None:
        yield (
            "flip: refused, for another one has made an epoch",
            state._replace(mover=mover._replace(step="look", is_chained=False)),
        )
        return
    yield from _do(state, mover, message, done, mutants)


def _known(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    source, _ = scope.moves[mover.move]
    all_know = all(
        lease is None or max(lease.epoch, worker.words[source].epoch) >= mover.epoch
        for worker in state.workers
        for lease in (worker.leases[source],)
    )
    if all_know or "epoch_min only at a new lease, and no wait" in mutants:
        yield "sees that all know the epoch", silenced(state)._replace(mover=mover._replace(step="open"))


def _open(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    source, _ = scope.moves[mover.move]
    minimum = state.docs[source].epoch_min if "epoch_min is not raised" in mutants else mover.epoch
    served = Doc(mover.revision + 1, is_paused=False, epoch_min=minimum, attempt=mover.attempt)
    done = mover._replace(step="clean", revision=mover.revision + 1)
    yield from _do(state, mover, Message("doc", source, mover.revision, served), done, mutants)


def _clean(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Drops the old copies, or leaves that to another day."""
    source, _ = scope.moves[mover.move]
    after = _next_move(state, mover, scope, mutants)
    yield "keeps the old copies", after
    sent = send_late(after, Message("drop", source, mover.gen, ""), mutants)
    yield f"sends the drop of gen {mover.gen} of shard {source}, which takes its time", sent


def _next_move(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> State:
    """The next rebalance begins: with an attempt of its own."""
    if mover.move + 1 == len(scope.moves) or mover.attempt != state.attempt:
        return state._replace(mover=_END)
    source, _ = scope.moves[mover.move + 1]
    attempt = 0 if "a gen is used again on the way back" in mutants else state.attempt + 1
    following = Mover("copy", mover.move + 1, attempt, state.place.gen, is_cancelling=False)
    following = following._replace(revision=state.docs[source].revision)
    return state._replace(mover=following, attempt=attempt)


def _undo(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Before the flip: opens the slot at the source again."""
    source, _, _ = _source(mover, scope)
    doc = state.docs[source]
    revision = mover.revision + doc.is_paused
    done = mover._replace(step="burn" if mover.is_cancelling else "copy", revision=revision)
    if mover.tries == TRIES_MAX:
        done = _END
    if doc.is_paused:
        served = doc._replace(revision=mover.revision + 1, is_paused=False, attempt=mover.attempt, leaving=None)
        yield from _do(state, mover, Message("doc", source, mover.revision, served), done, mutants)
    else:
        yield "finds nothing paused", state._replace(mover=done)


def _burn(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """The attempt is over; its copies are dropped, which may take its time, and the next attempt begins."""
    if mover.attempt != state.attempt:
        yield "reads that another one has taken over", state._replace(mover=_END)
        return
    source, target, _ = _source(mover, scope)
    attempt = mover.attempt if "a gen is used again after a cancel" in mutants else mover.attempt + 1
    again = Mover("copy", mover.move, attempt, mover.gen, is_cancelling=False)
    after = state._replace(mover=again._replace(revision=state.docs[source].revision), attempt=attempt)
    yield "leaves the burnt copies", after
    sent = send_late(after, Message("drop", target, mover.attempt, ""), mutants)
    yield "sends the drop of the burnt copies, which takes its time", sent


def _take_over(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Raises the attempt: every copy, pause and flip of an earlier mover is burnt, once the fences stand."""
    attempt = state.attempt + ("a successor keeps the attempt" not in mutants)
    after = state._replace(mover=mover._replace(step="fence topology", attempt=attempt), attempt=attempt)
    if "burnt copies are dropped before the fences" in mutants:
        _, target, _ = _source(mover, scope)
        after = send_late(after, Message("drop", target, attempt - 1, ""), mutants)
    yield f"takes over with attempt {attempt}", after


def _fence_topology(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """A new epoch, so that no flip of an earlier mover can arrive any more: read here, then the record, then made."""
    del scope
    if "the topology is not fenced" in mutants:
        yield "fences no topology", state._replace(mover=mover._replace(step="fence document"))
        return
    epoch = state.place.epoch
    yield f"reads epoch {epoch} to fence it", state._replace(mover=mover._replace(step="ask to fence", epoch=epoch))


def _ask_to_fence(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    del scope
    if state.attempt != mover.attempt and "a chain of epochs begins without a look at the record" not in mutants:
        yield "reads that another one has taken over", state._replace(mover=_END)
        return
    fenced = state.place._replace(epoch=mover.epoch + 1)
    done = mover._replace(step="fence document", epoch=mover.epoch + 1, is_chained=True)
    message = Message("topology", 0, mover.epoch, fenced)
    if land(state, message, mutants) is None:
        yield (
            "fence: refused, for another one has made an epoch",
            state._replace(mover=mover._replace(step="fence topology", epoch=0)),
        )
        return
    yield from _do(state, mover, message, done, mutants)


def _fence_document(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """A new revision, so that no pause and no opening of an earlier mover can arrive any more; then it is decided.

    What was left paused is opened first, and copied anew under the new gen.
    """
    source, target, _ = _source(mover, scope)
    doc = state.docs[source]
    if doc.attempt > mover.attempt and "the attempt in the document is not looked at" not in mutants:
        yield "reads in the document that another one has taken over", state._replace(mover=_END)
        return
    trusts = "a pause that is found is trusted" in mutants
    revision = doc.revision + (not trusts)
    if state.place.shard == target:
        done = mover._replace(step="known", revision=revision, epoch=state.place.epoch, is_cancelling=False)
    elif doc.leaving is not None and "what is found paused is opened at the source" not in mutants:
        done = mover._replace(step="settle", revision=revision, timer=LEASE)
    else:
        done = mover._replace(step="undo" if doc.is_paused or mover.is_cancelling else "copy", revision=revision)
    if trusts:
        step = "confirm" if done.step == "undo" else done.step
        yield "goes on with what it finds", state._replace(mover=done._replace(step=step, timer=LEASE))
        return
    message = Message("doc", source, doc.revision, doc._replace(revision=revision, attempt=mover.attempt))
    for what, after in _do(state, mover, message, done, mutants):
        yield what, after
        burnt = [gen for gen in range(mover.gen + 1, mover.attempt) if after.rows[target][gen]]
        is_known = done.step == "settle" and "burnt copies are dropped before it is settled" not in mutants
        if after.mover == done and done.step != "known" and not is_known and burnt:
            yield (
                f"{what}, and sends the drop of gen {burnt[-1]}",
                send_late(after, Message("drop", target, burnt[-1], ""), mutants),
            )


def _settle(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Waits until no worker can open the slot any more, at a word that an earlier mover gave, or may yet give."""
    confirmed = list(_confirm(state, mover, scope, mutants))
    if "it is settled at once whether a slot was opened" in mutants:
        confirmed = [("waits for nobody", state)]
    for what, after in confirmed:
        yield what, after._replace(mover=mover._replace(step="decide", timer=0))


def _decide(state: State, mover: Mover, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Looks for the word: where it is, some worker may have opened the slot on the target, and so does the topology."""
    del mutants
    source, _, _ = _source(mover, scope)
    leaving = state.docs[source].leaving
    if leaving is None:
        yield "reads in the document that another one has taken over", state._replace(mover=_END)
    elif (source, leaving.revision) in state.said:
        opened = mover._replace(step=_to_flip(mover), opened=leaving.gen, is_cancelling=False)
        yield "finds the word that opened the slot", state._replace(mover=opened)
    else:
        yield "finds that the slot was not opened", state._replace(mover=mover._replace(step="undo"))


_STEPS: dict[str, Callable[[State, Mover, Scope, Collection[str]], Iterator[Step]]] = {
    "copy": _copy,
    "pause": _pause,
    "confirm": _confirm,
    "rest": _rest,
    "seals": _seals,
    "digest": _digest,
    "say": _say,
    "settle": _settle,
    "decide": _decide,
    "look": _look,
    "ask": _ask,
    "late look": _late_look,
    "flip": _flip,
    "known": _known,
    "open": _open,
    "clean": _clean,
    "undo": _undo,
    "burn": _burn,
    "take over": _take_over,
    "fence topology": _fence_topology,
    "ask to fence": _ask_to_fence,
    "fence document": _fence_document,
}
