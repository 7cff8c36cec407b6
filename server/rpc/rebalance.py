"""RebalanceService: operators' commands to rebalances, over the same functions as their command line."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from protos.topology.v1 import rebalance_pb2 as pb
from server.app.failures import read_failure_of
from server.domain.errors import OrderError, Reason, Violation
from server.rpc.call import Call
from server.rpc.pipeline import Pipeline, Service
from shards.contract import SlotSize, StoreError
from shards.keys import SLOTS
from shards.rebalance import commands, doctor
from shards.rebalance.commands import Situation, Wanted
from shards.rebalance.fleet import Fleet
from shards.rebalance.plan import Plan, PlanRefused
from shards.rebalance.record import Command, Entry, Finished, IllegalStep, Kind, Options, State

NAME: Final = pb.DESCRIPTOR.services_by_name["RebalanceService"].full_name

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

_T = TypeVar("_T")


class RebalanceServicer:
    """Answers from, and writes to, where the topology is kept. A mover does the work."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def service(self, pipeline: Pipeline) -> Service:
        """Returns the service with all its handlers."""
        unary = pipeline.unary
        return Service(
            NAME,
            {
                "PlanRebalance": unary(f"{NAME}/PlanRebalance", pb.PlanRebalanceRequest, self.plan),
                "StartRebalance": unary(f"{NAME}/StartRebalance", pb.StartRebalanceRequest, self.start),
                "GetRebalance": unary(f"{NAME}/GetRebalance", pb.GetRebalanceRequest, self.get),
                "PauseRebalance": unary(f"{NAME}/PauseRebalance", pb.PauseRebalanceRequest, self.pause),
                "ResumeRebalance": unary(f"{NAME}/ResumeRebalance", pb.ResumeRebalanceRequest, self.resume),
                "CancelRebalance": unary(f"{NAME}/CancelRebalance", pb.CancelRebalanceRequest, self.cancel),
                "ListRebalances": unary(f"{NAME}/ListRebalances", pb.ListRebalancesRequest, self.list),
                "DiagnoseRebalance": unary(f"{NAME}/DiagnoseRebalance", pb.DiagnoseRebalanceRequest, self.diagnose),
            },
        )

    async def plan(self, request: pb.PlanRebalanceRequest, _call: Call) -> pb.PlanRebalanceResponse:
        """Answers a plan."""
        sizes: dict[int, SlotSize] | None = {} if request.skip_sizes else None
        _, made = await _told(commands.survey(self._fleet, _wanted(request.goal), Options(), sizes))
        return pb.PlanRebalanceResponse(plan=_plan(made))

    async def start(self, request: pb.StartRebalanceRequest, call: Call) -> pb.StartRebalanceResponse:
        """Records a rebalance."""
        options = _options(Options(), request.options)
        topology, made = await _told(commands.survey(self._fleet, _wanted(request.goal), options, {}))
        record = await _told(
            commands.begin(self._fleet, topology, made, options, call.caller_id, is_dry=request.validate_only)
        )
        return pb.StartRebalanceResponse(rebalance=_rebalance(Situation(topology, record, None, None)))

    async def get(self, _request: pb.GetRebalanceRequest, _call: Call) -> pb.GetRebalanceResponse:
        """Answers the present rebalance."""
        situation = await _told(commands.look(self._fleet))
        return pb.GetRebalanceResponse(rebalance=None if situation.record is None else _rebalance(situation))

    async def pause(self, _request: pb.PauseRebalanceRequest, call: Call) -> pb.PauseRebalanceResponse:
        """Lets it rest."""
        await _told(commands.tell(self._fleet, Command.PAUSE, call.caller_id))
        return pb.PauseRebalanceResponse(rebalance=await self._present())

    async def resume(self, request: pb.ResumeRebalanceRequest, call: Call) -> pb.ResumeRebalanceResponse:
        """Goes on."""
        record = (await _told(commands.look(self._fleet))).record
        options = _options(Options() if record is None else record.options, request.options)
        await _told(commands.tell(self._fleet, Command.RESUME, call.caller_id, options=options))
        return pb.ResumeRebalanceResponse(rebalance=await self._present())

    async def cancel(self, request: pb.CancelRebalanceRequest, call: Call) -> pb.CancelRebalanceResponse:
        """Stops it for good."""
        await _told(commands.tell(self._fleet, Command.CANCEL, call.caller_id, undo=request.undo))
        return pb.CancelRebalanceResponse(rebalance=await self._present())

    async def list(self, _request: pb.ListRebalancesRequest, _call: Call) -> pb.ListRebalancesResponse:
        """Answers those that are over."""
        finished = await _told(commands.history(self._fleet))
        return pb.ListRebalancesResponse(rebalances=[_finished(one) for one in reversed(finished)])

    async def diagnose(self, request: pb.DiagnoseRebalanceRequest, _call: Call) -> pb.DiagnoseRebalanceResponse:
        """Answers what is wrong."""
        found = await _told(doctor.examine(self._fleet, rows=not request.skip_rows))
        return pb.DiagnoseRebalanceResponse(
            findings=[pb.RebalanceFinding(description=one.what, remedy=one.mend, wrong=one.is_wrong) for one in found]
        )

    async def _present(self) -> pb.Rebalance:
        return _rebalance(await _told(commands.look(self._fleet)))


async def _told(doing: Awaitable[_T]) -> _T:
    """Returns what is done, or raises the ``OrderError`` for what refuses it."""
    try:
        return await doing
    except PlanRefused as error:
        raise OrderError(Reason.INVALID_REQUEST, str(error), violations=(Violation("goal", str(error)),)) from error
    except IllegalStep as error:
        raise OrderError(Reason.REBALANCE_REFUSED, str(error)) from error
    except StoreError as error:
        raise read_failure_of(error) from error


def _wanted(goal: pb.RebalanceGoal) -> Wanted:
    kind = _KINDS.get(goal.kind)
    if kind is None:
        raise _invalid("goal.kind", "say what the rebalance is for")
    if kind is Kind.SPLIT and not goal.slots:
        raise _invalid("goal.slots", f"at least one slot, 0-{SLOTS - 1}")
    return Wanted(
        kind, goal.weight or 1, goal.shard, dict(goal.weights), tuple(sorted(set(goal.slots))), goal.to_new_shard
    )


def _options(base: Options, said: pb.RebalanceOptions) -> Options:
    return base._replace(**{name: getattr(said, name) for name in _OPTIONS if said.HasField(name)})


def _invalid(field: str, description: str) -> OrderError:
    return OrderError(Reason.INVALID_REQUEST, f"{field}: {description}", violations=(Violation(field, description),))


def _plan(made: Plan) -> pb.RebalancePlan:
    before = {load.shard: load.slots for load in made.before}
    after = {load.shard: load.slots for load in made.after}
    return pb.RebalancePlan(
        epoch=made.epoch,
        slots=len(made.targets),
        slots_min=made.minimum,
        orders=made.rows,
        bytes=made.bytes,
        estimate_s=made.estimate_s,
        shards=[
            pb.RebalanceShard(id=shard, slots_before=before.get(shard, 0), slots_after=after.get(shard, 0))
            for shard in sorted(before.keys() | after.keys())
        ],
    )


def _rebalance(situation: Situation) -> pb.Rebalance:
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
        legal_commands=[command.value for command in record.legal()],
    )
    if told is not None and record.is_open:
        answer.orders_per_s, answer.throttle_reason = told.rows_per_s, told.throttle_reason
        if told.remaining_s is not None:
            answer.remaining_s = told.remaining_s
    return answer


def _finished(one: Finished) -> pb.Rebalance:
    return pb.Rebalance(
        id=one.id,
        kind=_KINDS_BACK[one.kind],
        state=_STATES[one.state],
        slots=one.slots,
        slots_moved=one.moved,
        entries=[_entry(entry) for entry in one.entries],
    )


def _entry(entry: Entry) -> pb.RebalanceEntry:
    return pb.RebalanceEntry(
        time_unix_ms=entry.at_unix_ms, who=entry.who, command=entry.command.value, detail=entry.detail
    )
