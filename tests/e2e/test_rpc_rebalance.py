"""RebalanceService: the operator's commands as RPCs, in a worker of the test's own process."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from protos.topology.v1 import rebalance_pb2 as pb
from protos.topology.v1 import rebalance_pb2_grpc
from server.transport import Kind
from shards.assembly import StorageSettings
from shards.fleets import open_fleet
from shards.rebalance.mover import Mover
from tests.support.rpc_worker import KINDS, RpcWorker, prepared, rpc_worker

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
    assert not [one for one in (await rpc.DiagnoseRebalance(pb.DiagnoseRebalanceRequest())).findings if one.wrong]


async def test_what_is_refused_is_typed(worker: RpcWorker) -> None:
    """What can never be is INVALID_ARGUMENT, and what is not legal now FAILED_PRECONDITION, with the legal steps."""
    rpc = stub(worker)
    for goal in (pb.RebalanceGoal(), pb.RebalanceGoal(kind=pb.REBALANCE_KIND_DRAIN, shard=9)):
        with pytest.raises(grpc.aio.AioRpcError) as invalid:
            await rpc.PlanRebalance(pb.PlanRebalanceRequest(goal=goal))
        assert invalid.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc.PauseRebalance(pb.PauseRebalanceRequest())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "start" in (refused.value.details() or "")


async def test_operators_are_not_served_unless_asked_for(tmp_path: Path) -> None:
    """Without the setting the service is UNIMPLEMENTED."""
    with prepared(tmp_path / "data") as settings:
        async with rpc_worker(Kind.GRPCIO, settings) as worker:
            with pytest.raises(grpc.aio.AioRpcError) as unserved:
                await stub(worker).GetRebalance(pb.GetRebalanceRequest())
    assert unserved.value.code() is grpc.StatusCode.UNIMPLEMENTED
