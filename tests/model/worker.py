"""What workers do: learn, hold leases, serve callers."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from tests.model.state import LEASE, SILENT, Lease, Message, Op, Place, Renewal, Scope, State, View, Word, Worker
from tests.model.stores import hushed, land, put, send_late, show

Step = tuple[str, State]
"""What happens, in words, and the state after it."""


def steps(state: State, scope: Scope, mutants: Collection[str]) -> Iterator[Step]:
    """Yields everything that a worker may do next. Doing nothing, however long, is always possible: it is paused."""
    for number, worker in enumerate(state.workers):
        name = f"worker {number}"
        for what, after in _learn(state, number, worker, mutants):
            yield f"{name} {what}", after
        for what, after in _open(state, number, worker, mutants):
            yield f"{name} {what}", after
        renew = _renew_in_parts if scope.has_split_renewals else _renew_at_once
        for shard in (0, 1):
            for what, after in renew(state, number, worker, shard, mutants):
                yield f"{name} {what}", after
            if scope.has_words:
                for what, after in _tell(state, number, worker, shard, mutants):
                    yield f"{name} {what}", after
        for what, after in _serve(state, number, worker, mutants):
            yield f"{name} {what}", after


def tick(state: State, mutants: Collection[str]) -> Step | None:
    """Returns the state one lease's length later; None where nobody counts."""
    workers = tuple(_older(worker, mutants) for worker in state.workers)
    mover = state.mover._replace(timer=max(state.mover.timer - 1, 0))
    deposed = state.deposed and state.deposed._replace(timer=max(state.deposed.timer - 1, 0))
    after = state._replace(workers=workers, mover=mover, deposed=deposed)
    return None if after == state else ("the time of a lease passes", after)


def _older(worker: Worker, mutants: Collection[str]) -> Worker:
    left, right = worker.valid
    valid = worker.valid if "a frozen worker's clock stops" in mutants else (max(left - 1, 0), max(right - 1, 0))
    return worker._replace(
        valid=valid,
        leases=(_lease_older(worker.leases[0]), _lease_older(worker.leases[1])),
        renewals=(_renewal_older(worker.renewals[0]), _renewal_older(worker.renewals[1])),
    )


def _lease_older(lease: Lease | None) -> Lease | None:
    return lease._replace(left=lease.left - 1) if lease is not None and lease.left > 1 else None


def _renewal_older(renewal: Renewal | None) -> Renewal | None:
    return None if renewal is None else renewal._replace(left=max(renewal.left - 1, 0))


def _with(state: State, number: int, worker: Worker) -> State:
    return state._replace(workers=(*state.workers[:number], worker, *state.workers[number + 1 :]))


def _without_op(state: State, number: int, worker: Worker, mutants: Collection[str]) -> State:
    """Ends the worker's operation without an answer: a write of it may yet arrive."""
    op = worker.op
    after = _with(state, number, worker._replace(op=None))
    if op is None or op.phase != "sent":
        return after
    return send_late(after, _message(op), mutants)


def _message(op: Op) -> Message:
    if op.kind == "x":
        return Message("seal", op.shard, 0, "")
    return Message("write", op.shard, op.gen, op.chain)


def _learn(state: State, number: int, worker: Worker, mutants: Collection[str]) -> Iterator[Step]:
    """Reads the topology, or a shard's document; ends what began under another state of the slot."""
    if worker.known.epoch < state.place.epoch:
        # a slot that was opened at a word may be ahead of the topology
        is_ahead = worker.known.gen > state.place.gen
        known = worker.known._replace(epoch=state.place.epoch) if is_ahead else state.place
        learned = worker._replace(known=known)
        has_moved = (worker.known.shard, worker.known.gen) != (known.shard, known.gen)
        after = _without_op(state, number, learned, mutants) if has_moved else _with(state, number, learned)
        yield f"learns epoch {state.place.epoch}", after
    for shard, doc in enumerate(state.docs):
        if doc.revision <= worker.views[shard].revision:
            continue
        ignores_minimum = {"epoch_min is ignored", "epoch_min only at a new lease, and no wait"} & set(mutants)
        if worker.known.epoch < doc.epoch_min and not ignores_minimum:
            continue
        opens = doc.opens
        if "a word opens under later states, too" in mutants and doc.leaving is not None:
            opens = doc.leaving.gen
        adopted = worker._replace(views=put(worker.views, shard, View(doc.revision, doc.is_paused, opens)))
        what = f"adopts revision {doc.revision} of shard {shard} ({'paused' if doc.is_paused else 'served'})"
        ends = doc.is_paused and worker.op is not None and worker.op.shard == shard
        if ends and "operations begun before are not marked" not in mutants:
            yield f"{what} and gives up its operation", hushed(_without_op(state, number, adopted, mutants))
        else:
            yield what, hushed(_with(state, number, adopted))


def _open(state: State, number: int, worker: Worker, mutants: Collection[str]) -> Iterator[Step]:
    """Opens the slot on the other shard, at the mover's word: looks for that, and then at its lease and its states."""
    shard, view = worker.known.shard, worker.views[worker.known.shard]
    revision = view.revision
    if "a word opens under later states, too" in mutants and (leaving := state.docs[shard].leaving) is not None:
        revision = leaving.revision
    if not view.opens or view.opens <= worker.known.gen or (shard, revision) not in state.said:
        return
    if worker.valid[shard] == 0 and "no lease is looked at before a slot is opened" not in mutants:
        return
    opened = worker._replace(known=Place(worker.known.epoch, 1 - shard, view.opens))
    yield f"opens the slot on shard {1 - shard}, gen {view.opens}", _without_op(state, number, opened, mutants)


def _may_renew(state: State, worker: Worker, shard: int, mutants: Collection[str]) -> bool:
    if "renewals do not look at the document" in mutants:
        return True
    if worker.views[shard].revision != state.docs[shard].revision:
        return False
    is_new = worker.leases[shard] is None
    checks_new = "epoch_min only at a new lease, and no wait" in mutants
    return not (checks_new and is_new and worker.known.epoch < state.docs[shard].epoch_min)


def _renew_at_once(state: State, number: int, worker: Worker, shard: int, mutants: Collection[str]) -> Iterator[Step]:
    if not _may_renew(state, worker, shard, mutants):
        return
    lease = Lease(worker.views[shard].revision, worker.known.epoch, LEASE)
    renewed = _leased(worker, shard, lease)._replace(valid=put(worker.valid, shard, LEASE))
    if renewed != worker:
        yield f"renews on shard {shard} under revision {lease.revision}", _with(state, number, renewed)


def _renew_in_parts(state: State, number: int, worker: Worker, shard: int, mutants: Collection[str]) -> Iterator[Step]:
    renewal = worker.renewals[shard]

    def after(changed: Worker, now: Renewal | None) -> State:
        return _with(state, number, changed._replace(renewals=put(worker.renewals, shard, now)))

    if renewal is None:
        sent = Renewal(worker.views[shard].revision, worker.known.epoch, LEASE, has_landed=False)
        yield f"sends a renewal to shard {shard} under revision {sent.revision}", after(worker, sent)
        return
    yield f"loses what it sent to shard {shard}, or its answer", after(worker, None)
    if renewal.has_landed:
        left = LEASE if "workers count from after their renewal" in mutants else renewal.left
        believes = worker._replace(valid=put(worker.valid, shard, max(left, worker.valid[shard])))
        view = worker.views[shard]
        if "a late renewal opens what has been paused since" in mutants and renewal.revision < view.revision:
            believes = believes._replace(views=put(worker.views, shard, view._replace(is_paused=False)))
        yield f"hears that its lease on shard {shard} is renewed ({left} left)", after(believes, None)
    elif renewal.revision == state.docs[shard].revision or "renewals do not look at the document" in mutants:
        lease = Lease(renewal.revision, renewal.epoch, LEASE)
        landed = _leased(worker, shard, lease)
        yield f"has its renewal granted by shard {shard}", after(landed, renewal._replace(has_landed=True))


def _leased(worker: Worker, shard: int, lease: Lease) -> Worker:
    """Returns the worker with a lease; a word that says no more than the lease does is left out: one state less."""
    word = worker.words[shard]
    if word.revision <= lease.revision and word.epoch <= lease.epoch:
        worker = worker._replace(words=put(worker.words, shard, SILENT))
    return worker._replace(leases=put(worker.leases, shard, lease))


def _tell(state: State, number: int, worker: Worker, shard: int, mutants: Collection[str]) -> Iterator[Step]:
    """Tells what it acts under by an unconditional write. One that lands late says what an earlier one would have.

    Left out are words for which no mover waits: they change nothing.
    """
    lease, said, view = worker.leases[shard], worker.words[shard], worker.views[shard]
    if "a word is taken for a lease" in mutants and not worker.valid[shard]:
        yield (
            f"takes its lease on shard {shard} for renewed",
            _with(state, number, worker._replace(valid=put(worker.valid, shard, LEASE))),
        )
    is_early = "a worker gives its word before it has acted" in mutants
    waiting = {mover.step for mover in (state.mover, state.deposed) if mover is not None}
    if lease is None or not (view.is_paused or is_early):
        return
    word = Word(state.docs[shard].revision if is_early else view.revision, worker.known.epoch)
    confirms = waiting & {"confirm", "settle"} and word.revision > max(said.revision, lease.revision)
    knows = "known" in waiting and word.epoch > max(said.epoch, lease.epoch)
    if not (confirms or knows):
        return
    told = worker._replace(words=put(worker.words, shard, word))
    what = f"tells shard {shard} that it acts under revision {word.revision} and epoch {word.epoch}"
    yield what, _with(state, number, told)


def _serve(state: State, number: int, worker: Worker, mutants: Collection[str]) -> Iterator[Step]:
    op = worker.op
    if op is None:
        shard = worker.known.shard
        if not worker.views[shard].is_paused:
            yield from _begin(state, number, worker)
        return
    if op.phase == "begun":
        yield from _look(state, number, worker, op)
    elif op.phase == "sent":
        yield f"has its {op.kind} time out", _without_op(state, number, worker, mutants)
        yield from _hear(state, number, worker, op, mutants)
    else:
        holds_lease = worker.valid[op.shard] > 0 or "no lease is looked at before the answer" in mutants
        if holds_lease or (op.kind == "r" and "reads are not held back" in mutants):
            yield _answer(state, number, worker, op)
        yield f"answers nothing for its {op.kind}", _with(state, number, worker._replace(op=None))


def _begin(state: State, number: int, worker: Worker) -> Iterator[Step]:
    _, shard, gen = worker.known
    for kind in sorted(set(state.todo)):
        noted = len(state.shown) if kind == "r" else 0
        op = Op(kind, shard, gen, noted, *(("sent", "c") if kind in "cx" else ("begun", "")))
        begun = _with(state, number, worker._replace(op=op))
        yield f"begins {kind} on shard {shard}, gen {gen}", begun._replace(todo=state.todo.replace(kind, "", 1))


def _look(state: State, number: int, worker: Worker, op: Op) -> Iterator[Step]:
    """Reads the row: a read's answer, or what a change is decided against."""
    row = state.rows[op.shard][op.gen]
    if op.kind == "r" or op.kind in row:
        known = op._replace(phase="known", chain=row)
        yield f"reads {row!r}", _with(state, number, worker._replace(op=known))
    elif row:
        sent = op._replace(phase="sent", chain=row + op.kind)
        yield f"reads {row!r} and sends {sent.chain!r}", _with(state, number, worker._replace(op=sent))
    else:
        yield "reads that there is no order", _with(state, number, worker._replace(op=None))


def _hear(state: State, number: int, worker: Worker, op: Op, mutants: Collection[str]) -> Iterator[Step]:
    """The write or seal arrives, and the worker hears what became of it."""
    after = land(state, _message(op), mutants)
    if op.kind == "x":
        assert after is not None
        known = op._replace(phase="known", chain=after.rows[op.shard][op.gen])
        yield (
            f"seals the bucket on shard {op.shard} and reads {known.chain!r}",
            _with(after, number, worker._replace(op=known)),
        )
    elif after is not None:
        known = op._replace(phase="known")
        yield f"stores {op.chain!r} on shard {op.shard}, gen {op.gen}", _with(after, number, worker._replace(op=known))
    elif op.kind == "c":  # the row that is there, or none and the bucket is sealed
        known = op._replace(phase="known", chain=state.rows[op.shard][op.gen])
        yield f"is refused, for {known.chain or 'a seal'!r} is there", _with(state, number, worker._replace(op=known))
    else:
        yield "is refused, for another version is there", _with(state, number, worker._replace(op=None))


def _answer(state: State, number: int, worker: Worker, op: Op) -> Step:
    after = _with(state, number, worker._replace(op=None))
    if op.kind in "cx" and not op.chain:
        return "answers that the order is not there and never will be", after._replace(is_refused=True)
    answered = op.chain if op.kind == "r" else op.chain[: op.chain.index("c" if op.kind == "x" else op.kind) + 1]
    return f"answers {op.kind} with {answered!r}", show(after, op.noted, answered, is_read=op.kind == "r")
