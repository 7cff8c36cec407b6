"""RebalanceService: the operator's commands as RPCs, in a worker of the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from protos.topology.v1 import rebalance_pb2 as pb
from protos.topology.v1 import rebalance_pb2_grpc
from server.rpc import rebalance
from server.rpc.errors import DETAILS_KEY
from server.transport import Kind
from shards.assembly import StorageSettings, open_fleet
from shards.rebalance import commands, verify
from shards.rebalance.mover import Mover
from tests.support.rpc_worker import KINDS, RpcWorker, a_create, prepared, rpc_worker
from tests.support.waiting import until

WHO = (("x-caller-id", "ada"),)


@pytest_asyncio.fixture(params=KINDS)
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RpcWorker]:
    """A worker on two shards that serves operators, on each transport."""
    with prepared(tmp_path / "data") as settings:
        async with rpc_worker(request.param, settings, serves_operators=True) as worker:
            yield worker


def stub(worker: RpcWorker) -> "rebalance_pb2_grpc.RebalanceServiceAsyncStub":
    """A plain stub."""
    return rebalance_pb2_grpc.RebalanceServiceStub(worker.channel)


async def read_all(answers: Any) -> list[Any]:  # noqa: ANN401  a stream of whatever
    """Reads a stream to its end."""
    return [answer async for answer in answers]


def legal(error: grpc.aio.AioRpcError) -> list[str]:
    """The commands that a refusal names as legal."""
    details = dict(error.trailing_metadata() or ())[DETAILS_KEY]
    status = status_pb2.Status.FromString(details if isinstance(details, bytes) else details.encode())
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == "REBALANCE_REFUSED"
    commands: str = info.metadata["legal_commands"]
    return commands.split(",")


async def test_a_rebalance_is_planned_begun_steered_and_remembered(worker: RpcWorker, tmp_path: Path) -> None:
    """Operators' programs plan, start, pause and resume a rebalance that a mover does, and who did what is kept."""
    rpc, goal = stub(worker), pb.RebalanceGoal(kind=pb.REBALANCE_KIND_ADD)
    plan = (await rpc.PlanRebalance(pb.PlanRebalanceRequest(goal=goal))).plan
    assert plan.slots == plan.slots_min == 1_365
    options = pb.RebalanceOptions(slots_at_once=64)
    checked = await rpc.StartRebalance(pb.StartRebalanceRequest(goal=goal, options=options, validate_only=True))
    assert checked.rebalance.slots == 1_365
    assert not (await rpc.GetRebalance(pb.GetRebalanceRequest())).HasField("rebalance")
    await rpc.StartRebalance(pb.StartRebalanceRequest(goal=goal, options=options), metadata=WHO)
    paused = (await rpc.PauseRebalance(pb.PauseRebalanceRequest(), metadata=WHO)).rebalance
    assert paused.state == pb.REBALANCE_STATE_PAUSED
    assert set(paused.legal_commands) == {"resume", "cancel"}
    await rpc.ResumeRebalance(pb.ResumeRebalanceRequest(), metadata=WHO)
    await rpc.CancelRebalance(pb.CancelRebalanceRequest(undo=True), metadata=WHO)
    fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
    await Mover(fleet).run(stays=False)
    await fleet.close()
    (over,) = (await rpc.ListRebalances(pb.ListRebalancesRequest())).rebalances
    assert over.state == pb.REBALANCE_STATE_CANCELLED
    assert [entry.command for entry in over.entries if entry.who == "ada"] == ["start", "pause", "resume", "cancel"]
    assert over.finish_time_unix_ms
    assert not [one for one in (await rpc.DiagnoseRebalance(pb.DiagnoseRebalanceRequest())).findings if one.wrong]


async def test_what_has_moved_is_watched_proven_and_cleaned_up(
    worker: RpcWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch tells of every step to the end; verify and cleanup tell how far they are, and at last what came of it."""
    monkeypatch.setattr(rebalance, "_TELL_S", 0.01)  # so that there is something to tell of a few orders
    rpc, goal = stub(worker), pb.RebalanceGoal(kind=pb.REBALANCE_KIND_ADD)
    for number in range(60):
        await worker.orders.CreateOrder(a_create(f"customer {number}"))
    begun = await rpc.StartRebalance(pb.StartRebalanceRequest(goal=goal, options=pb.RebalanceOptions(slots_at_once=64)))
    assert 0 < begun.plan.orders < 60  # counted, as by the command line
    assert sum(shard.orders_before for shard in begun.plan.shards) == 60
    assert len(begun.plan.moves) == begun.plan.slots == begun.rebalance.slots
    fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
    moving = asyncio.ensure_future(Mover(fleet).run(stays=False))
    watched = [told.rebalance async for told in rpc.WatchRebalance(pb.WatchRebalanceRequest())]
    await moving
    await fleet.close()
    assert watched[0].state == pb.REBALANCE_STATE_RUNNING
    assert [told.slots_moved for told in watched] == sorted(told.slots_moved for told in watched)
    assert any(told.progress.slots_under_way for told in watched)
    assert (watched[-1].state, watched[-1].slots_moved) == (pb.REBALANCE_STATE_DONE, 1_365)

    proof = [told async for told in rpc.VerifyRebalance(pb.VerifyRebalanceRequest())]
    assert len(proof) > 1
    assert [told.done for told in proof] == [False] * (len(proof) - 1) + [True]
    assert (proof[-1].slots_done, proof[-1].orders_wrong) == (1_365, 0)
    assert proof[-1].orders == proof[-1].orders_compared == begun.plan.orders

    with pytest.raises(grpc.aio.AioRpcError) as early:
        await read_all(rpc.CleanUpRebalance(pb.CleanUpRebalanceRequest()))
    assert "cleanup --now" in legal(early.value)
    (counted,) = await read_all(rpc.CleanUpRebalance(pb.CleanUpRebalanceRequest(now=True, validate_only=True)))
    assert (counted.copies > 0, counted.copies_deleted) == (True, 0)
    cleaned = (await read_all(rpc.CleanUpRebalance(pb.CleanUpRebalanceRequest(now=True))))[-1]
    assert cleaned.copies == cleaned.copies_deleted == counted.copies
    assert set(cleaned.rebalance.legal_commands) == {"start", "reverse", "verify"}
    with pytest.raises(grpc.aio.AioRpcError) as again:
        await read_all(rpc.CleanUpRebalance(pb.CleanUpRebalanceRequest(now=True)))
    assert legal(again.value) == ["start", "reverse", "verify"]
    mended = await rpc.MendRebalance(pb.MendRebalanceRequest(validate_only=True))
    assert (mended.rebalance.slots, mended.rebalance.state) == (0, pb.REBALANCE_STATE_RUNNING)


async def test_looking_through_shards_is_bounded_and_ends_with_its_caller(
    worker: RpcWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two such calls are done at a time; one that its caller cancels, or whose deadline passes, makes room."""
    begun, ended = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def look_for_ever(*_: object, **__: object) -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            ended.release()

    rpc, goal = stub(worker), pb.RebalanceGoal(kind=pb.REBALANCE_KIND_ADD)
    await rpc.StartRebalance(pb.StartRebalanceRequest(goal=goal, skip_sizes=True))
    monkeypatch.setattr(verify, "verify", look_for_ever)
    monkeypatch.setattr(commands, "survey", look_for_ever)
    proof = rpc.VerifyRebalance(pb.VerifyRebalanceRequest())
    first = await proof.read()
    assert isinstance(first, pb.VerifyRebalanceResponse)
    assert not first.done  # it tells that it is at it
    plan = rpc.PlanRebalance(pb.PlanRebalanceRequest(goal=goal), timeout=60)
    for _ in range(rebalance.SEARCHES_MAX):
        await begun.acquire()
    with pytest.raises(grpc.aio.AioRpcError) as full:
        await rpc.PlanRebalance(pb.PlanRebalanceRequest(goal=goal))
    assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    proof.cancel()
    await ended.acquire()
    with pytest.raises(grpc.aio.AioRpcError) as late:  # as long as a busy machine may need to begin it
        await rpc.PlanRebalance(pb.PlanRebalanceRequest(goal=goal), timeout=2.0)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await ended.acquire()
    plan.cancel()
    await ended.acquire()


async def test_watches_are_bounded_and_end_with_their_callers(worker: RpcWorker) -> None:
    """So many callers watch a rebalance through one worker; the next is refused until one of them leaves."""
    rpc = stub(worker)
    goal = pb.RebalanceGoal(kind=pb.REBALANCE_KIND_ADD)
    await rpc.StartRebalance(pb.StartRebalanceRequest(goal=goal, skip_sizes=True))  # open, and nobody moves anything
    watches = [rpc.WatchRebalance(pb.WatchRebalanceRequest()) for _ in range(rebalance.WATCHES_MAX)]
    for watch in watches:
        told = await watch.read()
        assert isinstance(told, pb.WatchRebalanceResponse)
        assert told.HasField("rebalance")
    with pytest.raises(grpc.aio.AioRpcError) as full:
        await rpc.WatchRebalance(pb.WatchRebalanceRequest()).read()
    assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    watches[0].cancel()

    async def watched() -> bool:
        try:
            return await rpc.WatchRebalance(pb.WatchRebalanceRequest()).read() is not grpc.aio.EOF
        except grpc.aio.AioRpcError:
            return False

    await until(watched, bool)


async def test_what_is_refused_is_typed(worker: RpcWorker) -> None:
    """What can never be is INVALID_ARGUMENT, and what is not legal now FAILED_PRECONDITION, with the legal steps."""
    rpc = stub(worker)
    for goal in (
        pb.RebalanceGoal(),
        pb.RebalanceGoal(kind=pb.REBALANCE_KIND_DRAIN, shard=9),
        pb.RebalanceGoal(kind=pb.REBALANCE_KIND_SPLIT, to_new_shard=True),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as invalid:
            await rpc.PlanRebalance(pb.PlanRebalanceRequest(goal=goal))
        assert invalid.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.PauseRebalance(pb.PauseRebalanceRequest())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert legal(refused.value) == ["start"]
    for options in (pb.RebalanceOptions(slots_at_once=1_000), pb.RebalanceOptions(keep_error_rate=2)):
        with pytest.raises(grpc.aio.AioRpcError) as invalid:
            await rpc.StartRebalance(
                pb.StartRebalanceRequest(goal=pb.RebalanceGoal(kind=pb.REBALANCE_KIND_ADD), options=options)
            )
        assert invalid.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as unproven:
        await read_all(rpc.VerifyRebalance(pb.VerifyRebalanceRequest()))
    assert legal(unproven.value) == ["start"]
    assert [told.HasField("rebalance") for told in await read_all(rpc.WatchRebalance(pb.WatchRebalanceRequest()))] == [
        False
    ]


async def test_operators_are_not_served_unless_asked_for(tmp_path: Path) -> None:
    """Without the setting the service is UNIMPLEMENTED."""
    with prepared(tmp_path / "data") as settings:
        async with rpc_worker(Kind.GRPCIO, settings) as worker:
            with pytest.raises(grpc.aio.AioRpcError) as unserved:
                await stub(worker).GetRebalance(pb.GetRebalanceRequest())
    assert unserved.value.code() is grpc.StatusCode.UNIMPLEMENTED
