"""TopologyService: where orders live and who serves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from protos.topology.v1 import topology_pb2 as pb
from server.app.fleet import Fleet, WorkerState
from server.rpc.call import Call
from server.rpc.pipeline import Pipeline, Service
from shards.routing import Router

NAME: Final = pb.DESCRIPTOR.services_by_name["TopologyService"].full_name

EPOCH_INTERVAL_S: Final = 1.0
"""How often a watch looks at the epoch: it changes a few times in a month, and callers need no more than a second."""

_STATES: Final = {
    WorkerState.STARTING: pb.Worker.STATE_STARTING,
    WorkerState.SERVING: pb.Worker.STATE_SERVING,
    WorkerState.DRAINING: pb.Worker.STATE_DRAINING,
}


class TopologyServicer:
    """Answers from what this worker knows, without I/O."""

    def __init__(self, router: Router, fleet: Fleet) -> None:
        self._router = router
        self._fleet = fleet

    def service(self, pipeline: Pipeline) -> Service:
        """Returns the service with all its handlers."""
        return Service(
            NAME,
            {
                "GetTopology": pipeline.unary(f"{NAME}/GetTopology", pb.GetTopologyRequest, self.get_topology),
                "WatchTopology": pipeline.stream(f"{NAME}/WatchTopology", pb.WatchTopologyRequest, self.watch_topology),
            },
        )

    async def get_topology(self, _request: pb.GetTopologyRequest, _call: Call) -> pb.GetTopologyResponse:
        """Answers the present topology."""
        return pb.GetTopologyResponse(topology=self._present())

    async def watch_topology(
        self, _request: pb.WatchTopologyRequest, _call: Call
    ) -> AsyncGenerator[pb.WatchTopologyResponse, None]:
        """Answers at once, and again after every change of the epoch or the workers."""
        while True:
            epoch, revision = self._router.topology.epoch, self._fleet.revision
            yield pb.WatchTopologyResponse(topology=self._present())
            while (self._router.topology.epoch, self._fleet.revision) == (epoch, revision):
                try:
                    async with asyncio.timeout(EPOCH_INTERVAL_S):
                        await self._fleet.changed(revision)
                except TimeoutError:
                    continue

    def _present(self) -> pb.Topology:
        topology = self._router.topology
        return pb.Topology(
            epoch=topology.epoch,
            shards=[pb.Shard(id=shard.id, weight=shard.weight) for shard in topology.shards],
            slot_shards=topology.slot_shards,
            workers=[
                pb.Worker(id=worker.id, address=worker.address, state=_STATES[worker.state])
                for worker in self._fleet.workers
            ],
        )
