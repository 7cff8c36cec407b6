"""What ``--json`` prints: one document a command, keys as the records name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shards.rebalance.commands import Situation
from shards.rebalance.doctor import Finding
from shards.rebalance.home_move import HomePlan
from shards.rebalance.plan import Plan
from shards.rebalance.progress import Progress
from shards.rebalance.record import Entry, Finished, RebalanceRecord
from shards.rebalance.verify import Report


def plan(value: Plan) -> Mapping[str, Any]:
    """Returns a plan, with every slot that moves."""
    return {
        "kind": value.kind.value,
        "epoch": value.epoch,
        "slots": len(value.targets),
        "minimum": value.minimum,
        "share": round(value.share, 6),
        "rows": value.rows,
        "bytes": value.bytes,
        "estimate_s": round(value.estimate_s, 1),
        "before": [load._asdict() for load in value.before],
        "after": [load._asdict() for load in value.after],
        "moves": [
            {"slot": slot, "source": value.sources[slot], "target": target} for slot, target in value.targets.items()
        ],
    }


def record(value: RebalanceRecord) -> Mapping[str, Any]:
    """Returns a record without its moves, which a plan has."""
    return {
        "id": value.id,
        "attempt": value.attempt,
        "kind": value.kind.value,
        "state": value.state.value,
        "slots": len(value.moves),
        "options": value.options._asdict(),
        "stuck": [stuck._asdict() for stuck in value.stuck],
        "stuck_count": value.stuck_count,
        "finished_unix_ms": value.finished_unix_ms,
        "is_clean": value.is_clean,
        "entries": [entry(one) for one in value.entries],
        "legal": list(value.next_words),
    }


def situation(value: Situation) -> Mapping[str, Any]:
    """Returns how things stand."""
    return {
        "epoch": value.topology.epoch,
        "shards": [
            {"shard": info.id, "weight": info.weight, "slots": value.topology.slot_shards.count(info.id)}
            for info in value.topology.shards
        ],
        "record": None if value.record is None else record(value.record),
        "moved": None if value.record is None else len(value.record.moved(value.topology)),
        "progress": None if value.progress is None else progress(value.progress),
        "mover": value.mover,
        "legal": list(value.next_words),
    }


def progress(value: Progress) -> Mapping[str, Any]:
    """Returns what a mover told."""
    return {name: getattr(value, name) for name in value.__struct_fields__}


def entry(value: Entry) -> Mapping[str, Any]:
    """Returns one command of the past."""
    return {"at_unix_ms": value.at_unix_ms, "who": value.who, "command": value.command.value, "detail": value.detail}


def finished(value: Finished) -> Mapping[str, Any]:
    """Returns one line of the history."""
    return {
        **value._asdict(),
        "kind": value.kind.value,
        "state": value.state.value,
        "entries": [entry(one) for one in value.entries],
    }


def home(value: HomePlan) -> Mapping[str, Any]:
    """Returns how a move of the topology's home stands."""
    return value._asdict()


def finding(value: Finding) -> Mapping[str, Any]:
    """Returns one finding of the doctor."""
    return value._asdict()


def report(value: Report) -> Mapping[str, Any]:
    """Returns what was verified."""
    return {
        "slots": value.slots,
        "rows": value.rows,
        "compared": value.compared,
        "late": value.late,
        "wrong": value.wrong,
        "named": value.named,
        "seconds": round(value.seconds, 3),
        "rows_per_s": round(value.rows_per_s),
    }
