from contextlib import AsyncExitStack

import pytest

from protos.topology.v1 import topology_pb2 as pb
from server.app.fleet import Fleet, WorkerInfo, WorkerState
from server.rpc.call import Call
from server.rpc.topology import TopologyServicer
from shards.routing import Router
from shards.topology import Topology
from tests.support.observers import Notes


@pytest.mark.parametrize("state", WorkerState, ids=lambda state: state.name)
async def test_a_topology_is_told_as_it_is(state: WorkerState) -> None:
    """Epoch, weights, the shard of every slot, and number, address and state of every worker arrive unchanged."""
    topology = Topology.initial(3).with_shard_added(2)
    fleet = Fleet()
    fleet.update([WorkerInfo(0, "a:1", state), WorkerInfo(1, "b:2", WorkerState.SERVING)])
    servicer = TopologyServicer(Router.over(topology, {}, Notes(), AsyncExitStack()), fleet)
    told = (await servicer.get_topology(pb.GetTopologyRequest(), Call())).topology
    assert told.epoch == topology.epoch == 2
    assert [(shard.id, shard.weight) for shard in told.shards] == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert list(told.slot_shards) == list(topology.slot_shards)
    workers = [(worker.id, worker.address, pb.Worker.State.Name(worker.state)) for worker in told.workers]
    assert workers == [(0, "a:1", f"STATE_{state.name}"), (1, "b:2", "STATE_SERVING")]
