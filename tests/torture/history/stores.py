"""Where the tortured server keeps its orders, and what can go wrong there."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from deploy.cluster import Cluster, ClusterSpec
from tests.support.proxy import Proxy
from tests.support.server_process import ROOT
from tests.torture.history.nemesis import DisturbProxy, Fault, KillNode, PauseNode

CQL_PORT: Final = 29_142
"""Of the nodes; far from those of the development cluster and of other tests."""

SHARDS: Final = 3
"""Of one node each."""

SCHEMA_TIMEOUT_S: Final = 300.0


class Storage(NamedTuple):
    """What the server is started with, and the faults of its store."""

    flags: Sequence[str]
    faults: Sequence[Fault]
    exact_replays: bool
    """See ``Rules``."""
    rest_s: tuple[float, float]
    """For the store to come to itself after a fault: with nothing but refusals nothing would be tried."""


EMBEDDED: Final = Storage((), (), exact_replays=True, rest_s=(0.1, 1.5))


def cluster_spec(host: str, *, shards: int, replicas: int, redis: bool) -> ClusterSpec:
    """Returns a cluster for a torture: it boots quickly and fails Redis masters over soon."""
    return ClusterSpec(
        shards=shards,
        replicas=replicas,
        redis=redis,
        first_address=host,
        cql_port=CQL_PORT,
        storage_port=CQL_PORT + 1,
        jmx_first_port=None,
        redis_first_port=CQL_PORT + 20,
        heap_mib=512,
        quick_start=True,
        redis_node_timeout_ms=1_500,
    )


@asynccontextmanager
async def cassandra(cluster: Cluster, host: str, scratch: Path) -> AsyncIterator[Storage]:
    """Makes the schema on a cluster that is up, and yields how to serve on it.

    Shards of one node are reached through a proxy each. In a ring drivers learn the nodes' own addresses, so nothing
    stands between there.
    """
    spec = cluster.spec
    async with AsyncExitStack() as opening:
        proxies: list[Proxy] = []
        if spec.replicas == 1:
            for shard in range(spec.shards):
                (address,) = spec.contact_points(shard)
                proxies.append(await opening.enter_async_context(Proxy(host, 0, (address, spec.cql_port))))
        direct = _topology_file(spec, scratch / "direct.toml", ())
        await asyncio.to_thread(_make_schema, direct)
        file = _topology_file(spec, scratch / "topology.toml", proxies)
        flags = ["--store", "cassandra", "--topology-file", str(file)]
        faults: list[Fault] = [
            KillNode("a Cassandra node", cluster.cassandra),
            PauseNode("a Cassandra node", cluster.cassandra),
        ]
        if len(cluster.cassandra) > 1:
            faults.append(KillNode("all Cassandra nodes", cluster.cassandra, at_once=True))
        if proxies:
            faults += [DisturbProxy(proxies, how) for how in ("delay", "drop", "cut")]
        if spec.redis:
            seeds = ",".join(node.endpoint for node in cluster.redis)
            flags += ["--cache", "redis_cluster", "--redis-seeds", seeds]
            faults += [KillNode("a Redis node", cluster.redis), PauseNode("a Redis node", cluster.redis)]
        yield Storage(flags, faults, exact_replays=False, rest_s=(2.0, 6.0))


def _topology_file(spec: ClusterSpec, path: Path, proxies: Sequence[Proxy]) -> Path:
    text = [f"[defaults]\nreplication = {spec.replicas}\n"]
    for shard in range(spec.shards):
        points, port = list(spec.contact_points(shard)), spec.cql_port
        if proxies:
            host, _, proxied = proxies[shard].endpoint.partition(":")
            points, port = [host], int(proxied)
        text.append(f"[[shards]]\nid = {shard}\ncontact_points = {points!r}\nport = {port}\n")
    path.write_text("\n".join(text))
    return path


def _make_schema(topology_file: Path) -> None:
    command = [sys.executable, "-m", "shards.schema", "apply", "--topology-file", str(topology_file)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=SCHEMA_TIMEOUT_S, stdout=subprocess.DEVNULL)
