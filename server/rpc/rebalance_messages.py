"""Between the messages of RebalanceService and the records, plans and reports of ``shards.rebalance``."""

from __future__ import annotations

from typing import Final

from protos.topology.v1 import rebalance_pb2 as pb
from server.domain.errors import OrderError, Reason, Violation
from shards.keys import SLOTS
from shards.rebalance.commands import Situation, Wanted
from shards.rebalance.plan import Plan
from shards.rebalance.progress import Progress
from shards.rebalance.record import Entry, Finished, Kind, Options, State
from shards.rebalance.verify import Report

_KINDS: Final = {
    pb.REBALANCE_KIND_ADD: Kind.ADD,
    pb.REBALANCE_KIND_DRAIN: Kind.DRAIN,
    pb.REBALANCE_KIND_REWEIGHT: Kind.REWEIGHT,
    pb.REBALANCE_KIND_SPLIT: Kind.SPLIT,
    pb.REBALANCE_KIND_REVERSE: Kind.REVERSE,
}
_KINDS_BACK: Final = {kind: value for value, kind in _KINDS.items()}
_STATES: Final = {
    State.RUNNING: pb.REBALANCE_STATE_RUNNING,
    State.PAUSED: pb.REBALANCE_STATE_PAUSED,
    State.CANCELLING: pb.REBALANCE_STATE_CANCELLING,
    State.CANCELLED: pb.REBALANCE_STATE_CANCELLED,
    State.DONE: pb.REBALANCE_STATE_DONE,
}
_OPTIONS: Final = ("keep_p99_ms", "keep_error_rate", "slots_at_once", "rows_per_s_max", "soak_s")


def wanted(goal: pb.RebalanceGoal) -> Wanted:
    """Returns what a caller wants. Raises INVALID_REQUEST ``OrderError``."""
    kind = _KINDS.get(goal.kind)
    if kind is None:
        raise invalid("goal.kind", "one of the kinds is needed")
    if any(slot >= SLOTS for slot in goal.slots):
        raise invalid("goal.slots", f"slots are 0-{SLOTS - 1}")
    return Wanted(
        kind,
        weight=goal.weight or 1,
        shard=goal.shard,
        weights=dict(goal.weights),
        slots=tuple(sorted(set(goal.slots))),
        to_new_shard=goal.to_new_shard,
    )


def options(base: Options, said: pb.RebalanceOptions) -> Options:
    """Returns the options, with what a caller said in place of the present ones."""
    return base._replace(**{name: getattr(said, name) for name in _OPTIONS if said.HasField(name)})


def invalid(field: str, description: str) -> OrderError:
    """Returns the error for a field that cannot be as it is."""
    return OrderError(Reason.INVALID_REQUEST, f"{field}: {description}", violations=(Violation(field, description),))


def plan(made: Plan) -> pb.RebalancePlan:
    """Returns a plan."""
    before = {load.shard: load for load in made.before}
    after = {load.shard: load for load in made.after}
    shards = []
    for shard in sorted(before.keys() | after.keys()):
        old, new = before.get(shard), after.get(shard)
        message = pb.RebalanceShard(id=shard)
        if old is not None:
            message.slots_before, message.orders_before, message.bytes_before = old.slots, old.rows, old.bytes
        if new is not None:
            message.slots_after, message.orders_after, message.bytes_after = new.slots, new.rows, new.bytes
            message.weight = new.weight
        shards.append(message)
    return pb.RebalancePlan(
        epoch=made.epoch,
        slots=len(made.targets),
        slots_min=made.minimum,
        orders=made.rows,
        bytes=made.bytes,
        estimate_s=made.estimate_s,
        shards=shards,
        moves=[
            pb.RebalanceMove(slot=slot, source=made.sources[slot], target=target)
            for slot, target in sorted(made.targets.items())
        ],
    )


def rebalance(situation: Situation) -> pb.Rebalance:
    """Returns the rebalance of a situation, which has one."""
    record, told = situation.record, situation.progress
    assert record is not None
    answer = pb.Rebalance(
        id=record.id,
        kind=_KINDS_BACK[record.kind],
        state=_STATES[record.state],
        slots=len(record.moves),
        slots_moved=len(record.moved(situation.topology)),
        slots_stuck=record.stuck_count,
        entries=[_entry(entry) for entry in record.entries],
        legal_commands=record.next_words,
        options=pb.RebalanceOptions(
            **{name: value for name, value in record.options._asdict().items() if value is not None}
        ),
        stuck=[
            pb.RebalanceStuckSlot(slot=one.slot, reason=one.reason, order_ids=one.order_ids) for one in record.stuck
        ],
        finish_time_unix_ms=record.finished_unix_ms,
    )
    if told is not None and record.is_open:
        answer.orders_per_s, answer.throttle_reason = told.rows_per_s, told.throttle_reason
        if told.remaining_s is not None:
            answer.remaining_s = told.remaining_s
        answer.progress.CopyFrom(_progress(told))
    return answer


def finished(one: Finished) -> pb.Rebalance:
    """Returns one of the history."""
    return pb.Rebalance(
        id=one.id,
        kind=_KINDS_BACK[one.kind],
        state=_STATES[one.state],
        slots=one.slots,
        slots_moved=one.moved,
        entries=[_entry(entry) for entry in one.entries],
        finish_time_unix_ms=one.finished_unix_ms,
    )


def report(value: Report, *, is_last: bool) -> pb.VerifyRebalanceResponse:
    """Returns how far a verification is, or its result."""
    return pb.VerifyRebalanceResponse(
        slots=value.slots_total,
        slots_done=value.slots,
        orders=value.rows,
        orders_compared=value.compared,
        orders_wrong=value.wrong,
        wrong=value.named if is_last else (),
        elapsed_s=value.seconds,
        done=is_last,
        orders_late=value.late,
    )


def _progress(told: Progress) -> pb.RebalanceProgress:
    return pb.RebalanceProgress(
        mover=told.mover,
        time_unix_ms=told.at_unix_ms,
        phase=told.phase,
        orders_copied=told.rows_copied,
        orders_read_back=told.rows_verified,
        throttle_orders_per_s=told.throttle_rows_per_s,
        slots_under_way=[
            pb.RebalanceSlot(slot=slot, activity=activity) for slot, activity in sorted(told.slot_states.items())
        ],
        waiting_for=told.waiting_for,
        pause_p99_ms=told.pause_ms_p99,
        pause_max_ms=told.pause_ms_max,
    )


def _entry(entry: Entry) -> pb.RebalanceEntry:
    return pb.RebalanceEntry(
        time_unix_ms=entry.at_unix_ms, who=entry.who, command=entry.command.word, detail=entry.detail
    )
