"""RebalanceService: operators' commands to rebalances, over the same functions as their command line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeVar

from protos.topology.v1 import rebalance_pb2 as pb
from server.app.failures import read_failure_of
from server.domain.errors import OrderError, Reason, Violation
from server.rpc import rebalance_messages as messages
from server.rpc.call import Call
from server.rpc.pipeline import Pipeline, Service
from shards.contract import SlotSize, StoreError
from shards.rebalance import cleanup, commands, doctor, verify
from shards.rebalance.commands import Situation
from shards.rebalance.fleet import Deposed, Fleet
from shards.rebalance.plan import PlanRefused
from shards.rebalance.record import Command, IllegalStep, Options, OptionsRefused
from shards.rebalance.verify import Report

NAME: Final = pb.DESCRIPTOR.services_by_name["RebalanceService"].full_name

SEARCHES_MAX: Final = 2
"""Calls under way in one worker that look through whole shards: orders come first."""

WATCHES_MAX: Final = 8
"""Streams of WatchRebalance in one worker: each reads where the topology is kept some eight times a second."""

_TELL_S: Final = 0.5
"""Between two tellings of a stream."""

_T = TypeVar("_T")


class RebalanceServicer:
    """Answers from, and writes to, where the topology is kept. A mover does the work."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._searches = _Few(SEARCHES_MAX, "looks through its shards for")
        self._watches = _Few(WATCHES_MAX, "tells of the rebalance to")

    def __repr__(self) -> str:
        return f"RebalanceServicer({self._fleet!r}, searches={self._searches.count}, watches={self._watches.count})"

    def service(self, pipeline: Pipeline) -> Service:
        """Returns the service with all its handlers."""
        unary: dict[str, tuple[Any, Any]] = {
            "PlanRebalance": (pb.PlanRebalanceRequest, self.plan),
            "StartRebalance": (pb.StartRebalanceRequest, self.start),
            "GetRebalance": (pb.GetRebalanceRequest, self.get),
            "PauseRebalance": (pb.PauseRebalanceRequest, self.pause),
            "ResumeRebalance": (pb.ResumeRebalanceRequest, self.resume),
            "CancelRebalance": (pb.CancelRebalanceRequest, self.cancel),
            "ListRebalances": (pb.ListRebalancesRequest, self.list),
            "DiagnoseRebalance": (pb.DiagnoseRebalanceRequest, self.diagnose),
            "MendRebalance": (pb.MendRebalanceRequest, self.mend),
        }
        streams: dict[str, tuple[Any, Any]] = {
            "WatchRebalance": (pb.WatchRebalanceRequest, self.watch),
            "VerifyRebalance": (pb.VerifyRebalanceRequest, self.verify),
            "CleanUpRebalance": (pb.CleanUpRebalanceRequest, self.clean_up),
        }
        handlers = {name: pipeline.unary(f"{NAME}/{name}", *of) for name, of in unary.items()}
        handlers |= {name: pipeline.stream(f"{NAME}/{name}", *of) for name, of in streams.items()}
        return Service(NAME, handlers)

    async def plan(self, request: pb.PlanRebalanceRequest, call: Call) -> pb.PlanRebalanceResponse:
        """Answers a plan."""
        _, made = await self._survey(request.goal, Options(), call, skips_sizes=request.skip_sizes)
        return pb.PlanRebalanceResponse(plan=messages.plan(made))

    async def start(self, request: pb.StartRebalanceRequest, call: Call) -> pb.StartRebalanceResponse:
        """Plans and records a rebalance."""
        options = messages.options(Options(), request.options)
        with _translated():
            commands.check_options(options)
        topology, made = await self._survey(request.goal, options, call, skips_sizes=request.skip_sizes)
        beginning = commands.begin(
            self._fleet,
            topology,
            made,
            options,
            call.caller_id,
            may_wait=request.may_wait,
            is_dry=request.validate_only,
        )
        record = await _told(beginning)
        return pb.StartRebalanceResponse(
            rebalance=messages.rebalance(Situation(topology, record, None, None)), plan=messages.plan(made)
        )

    async def get(self, _request: pb.GetRebalanceRequest, _call: Call) -> pb.GetRebalanceResponse:
        """Answers the present rebalance."""
        situation = await _told(commands.look(self._fleet))
        return pb.GetRebalanceResponse(rebalance=None if situation.record is None else messages.rebalance(situation))

    async def watch(
        self, _request: pb.WatchRebalanceRequest, _call: Call
    ) -> AsyncGenerator[pb.WatchRebalanceResponse, None]:
        """Answers the present rebalance, and again what has become of it, until it is over."""
        last: pb.Rebalance | None = None
        with self._watches.one():
            while True:
                situation = await _told(commands.look(self._fleet))
                if situation.record is None:
                    yield pb.WatchRebalanceResponse()
                    return
                present = messages.rebalance(situation)
                if present != last:
                    yield pb.WatchRebalanceResponse(rebalance=present)
                if not situation.record.is_open:
                    return
                last = present
                await asyncio.sleep(_TELL_S)

    async def pause(self, request: pb.PauseRebalanceRequest, call: Call) -> pb.PauseRebalanceResponse:
        """Lets it rest."""
        return pb.PauseRebalanceResponse(rebalance=await self._tell(Command.PAUSE, call, is_dry=request.validate_only))

    async def resume(self, request: pb.ResumeRebalanceRequest, call: Call) -> pb.ResumeRebalanceResponse:
        """Goes on."""
        record = (await _told(commands.look(self._fleet))).record
        options = messages.options(Options() if record is None else record.options, request.options)
        # the present options were judged when they were given
        changed = None if record is not None and options == record.options else options
        return pb.ResumeRebalanceResponse(
            rebalance=await self._tell(
                Command.RESUME, call, options=changed, may_wait=request.may_wait, is_dry=request.validate_only
            )
        )

    async def cancel(self, request: pb.CancelRebalanceRequest, call: Call) -> pb.CancelRebalanceResponse:
        """Stops it for good."""
        return pb.CancelRebalanceResponse(
            rebalance=await self._tell(Command.CANCEL, call, undo=request.undo, is_dry=request.validate_only)
        )

    async def verify(
        self, _request: pb.VerifyRebalanceRequest, _call: Call
    ) -> AsyncGenerator[pb.VerifyRebalanceResponse, None]:
        """Tells how far the comparing is, and its result."""
        situation = await _told(commands.look(self._fleet))
        with _translated():
            moves = commands.to_verify(situation)
        report = Report()

        def note(so_far: Report) -> None:
            nonlocal report
            report = so_far

        with self._searches.one():
            comparing = asyncio.ensure_future(verify.verify(self._fleet, situation.topology, moves, note))
            async with aclosing(_while_doing(comparing)) as turns:
                async for _ in turns:
                    yield messages.report(report, is_last=False)
            yield messages.report(comparing.result(), is_last=True)

    async def clean_up(
        self, request: pb.CleanUpRebalanceRequest, call: Call
    ) -> AsyncGenerator[pb.CleanUpRebalanceResponse, None]:
        """Tells how far the deleting is, and the rebalance that it leaves."""
        situation = await _told(commands.look(self._fleet))
        with _translated():
            record = commands.to_clean_up(situation, now=request.now)
        copies, deleted = 0, 0

        def note(done: int, every: int) -> None:
            nonlocal copies, deleted
            copies, deleted = every, done

        with self._searches.one():
            if request.validate_only:
                left = await _told(cleanup.leftovers(self._fleet, situation.topology, record))
                yield pb.CleanUpRebalanceResponse(copies=len(left), rebalance=messages.rebalance(situation))
                return
            deleting = asyncio.ensure_future(cleanup.clean_up(self._fleet, call.caller_id, tell=note))
            async with aclosing(_while_doing(deleting)) as turns:
                async for _ in turns:
                    yield pb.CleanUpRebalanceResponse(copies=copies, copies_deleted=deleted)
        present = messages.rebalance(await _told(commands.look(self._fleet)))
        yield pb.CleanUpRebalanceResponse(copies=copies, copies_deleted=deleted, rebalance=present)

    async def list(self, _request: pb.ListRebalancesRequest, _call: Call) -> pb.ListRebalancesResponse:
        """Answers those that are over."""
        finished = await _told(commands.history(self._fleet))
        return pb.ListRebalancesResponse(rebalances=[messages.finished(one) for one in reversed(finished)])

    async def diagnose(self, request: pb.DiagnoseRebalanceRequest, call: Call) -> pb.DiagnoseRebalanceResponse:
        """Answers what is wrong."""
        with self._searches.one():
            found = await _within(call, doctor.examine(self._fleet, rows=not request.skip_rows), "skip_rows")
        return pb.DiagnoseRebalanceResponse(
            findings=[pb.RebalanceFinding(description=one.what, remedy=one.mend, wrong=one.is_wrong) for one in found]
        )

    async def mend(self, request: pb.MendRebalanceRequest, call: Call) -> pb.MendRebalanceResponse:
        """Records a rebalance that moves nothing."""
        record = await _told(commands.mend(self._fleet, call.caller_id, is_dry=request.validate_only))
        topology = (await _told(commands.look(self._fleet))).topology
        return pb.MendRebalanceResponse(rebalance=messages.rebalance(Situation(topology, record, None, None)))

    async def _survey(self, goal: pb.RebalanceGoal, options: Options, call: Call, *, skips_sizes: bool) -> Any:  # noqa: ANN401  of `commands.survey`
        wanted = messages.wanted(goal)
        if skips_sizes:
            none: dict[int, SlotSize] = {}
            return await _told(commands.survey(self._fleet, wanted, options, none))
        with self._searches.one():
            return await _within(call, commands.survey(self._fleet, wanted, options), "skip_sizes")

    async def _tell(self, command: Command, call: Call, *, is_dry: bool, **more: Any) -> pb.Rebalance:  # noqa: ANN401  of `commands.tell`
        record = await _told(commands.tell(self._fleet, command, call.caller_id, is_dry=is_dry, **more))
        situation = await _told(commands.look(self._fleet))
        if is_dry:
            situation = Situation(situation.topology, record, None, situation.mover)
        return messages.rebalance(situation)


class _Few:
    """Calls of one kind that are under way: a few at a time."""

    def __init__(self, most: int, does: str) -> None:
        self.count = 0
        self._most = most
        self._does = does

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts a call. Raises QUEUE_FULL ``OrderError`` when there are as many already."""
        if self.count >= self._most:
            text = f"this worker {self._does} {self._most} callers already; retry, or ask another worker"
            raise OrderError(Reason.QUEUE_FULL, text, retry_after_s=5.0)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


@contextmanager
def _translated() -> Iterator[None]:
    """Raises the ``OrderError`` for what refuses a command."""
    try:
        yield
    except OptionsRefused as error:
        raise messages.invalid(f"options.{error.option}", str(error)) from error
    except PlanRefused as error:
        raise OrderError(Reason.INVALID_REQUEST, str(error), violations=(Violation("goal", str(error)),)) from error
    except IllegalStep as error:
        legal = {"legal_commands": ",".join(error.legal)} if error.legal else {}
        raise OrderError(Reason.REBALANCE_REFUSED, str(error), metadata=legal) from error
    except Deposed as error:
        text = f"another rebalance or mover began meanwhile ({error}); look at the present one"
        raise OrderError(Reason.REBALANCE_REFUSED, text, metadata={"legal_commands": "status"}) from error
    except StoreError as error:
        raise read_failure_of(error) from error


async def _told(doing: Awaitable[_T]) -> _T:
    with _translated():
        return await doing


async def _within(call: Call, doing: Awaitable[_T], skip: str) -> _T:
    """Returns what is done by the call's deadline, as ``_told``; ``skip`` is the field that makes it shorter."""
    try:
        async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
            return await _told(doing)
    except TimeoutError as error:
        text = f"looking through the shards takes longer than the deadline: set a longer one, or {skip}"
        raise OrderError(Reason.DEADLINE_EXCEEDED, text) from error


async def _while_doing(doing: asyncio.Future[Any]) -> AsyncGenerator[None, None]:
    """Yields from time to time until it is done, and raises what it raised, as ``_told``. Closed, it ends it."""
    try:
        while not (await asyncio.wait((doing,), timeout=_TELL_S))[0]:
            yield
        await _told(doing)
    finally:
        if not doing.done():
            doing.cancel()
            await asyncio.wait((doing,))
