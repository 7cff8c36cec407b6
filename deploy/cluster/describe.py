"""How a cluster is, as a value that programs read and a table that people do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rich.table import Table
from rich.text import Text

from deploy.cluster.cassandra import DATA_CENTRE, CassandraNode
from deploy.cluster.cluster import Cluster
from deploy.cluster.errors import NodeError
from deploy.cluster.node import Node
from deploy.cluster.redis import RedisNode

_NAMED_MAX: Final = 3
"""So many nodes are named where one line has to do."""


class NodeState(StrEnum):
    """What a node is doing."""

    READY = "ready"
    """It serves, and reaches its peers."""
    UNREADY = "unready"
    """It runs and does not serve (yet), or does not reach a peer."""
    PAUSED = "paused"
    """It was stopped by SIGSTOP."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node at one moment."""

    name: str
    endpoint: str
    role: str
    """``shard 0``, ``shard 0, replica 1``; ``redis master``, ``redis replica``, or ``redis`` when it does not tell."""
    state: NodeState
    pid: int | None
    detail: str
    """What is missing; empty when nothing is."""


def examine(cluster: Cluster) -> tuple[NodeReport, ...]:
    """Asks every node once; takes as long as the hung ones, two seconds each."""
    return tuple(_examine(cluster, node) for node in cluster.nodes)


def as_json(cluster: Cluster, reports: tuple[NodeReport, ...]) -> dict[str, object]:
    """Returns what ``status --json`` prints: where to connect, and each node's report."""
    spec = cluster.spec
    return {
        "directory": str(cluster.state.path),
        "ready": all(report.state is NodeState.READY for report in reports),
        "spec": spec.to_json(),
        "data_centre": DATA_CENTRE,
        "shards": [
            {"id": shard, "contact_points": list(spec.contact_points(shard)), "port": spec.cql_port}
            for shard in range(spec.shards)
        ],
        "redis": [node.endpoint for node in cluster.redis],
        "nodes": [dataclasses.asdict(report) for report in reports],
    }


def missing(reports: tuple[NodeReport, ...]) -> str:
    """Returns in a line which nodes do not serve; empty when all do."""
    odd = [f"{report.name} is {report.state}" for report in reports if report.state is not NodeState.READY]
    more = f" and {len(odd) - _NAMED_MAX} more" if len(odd) > _NAMED_MAX else ""
    return ", ".join(odd[:_NAMED_MAX]) + more


def as_table(reports: tuple[NodeReport, ...]) -> Table:
    """Returns the reports as a table."""
    table = Table("node", "role", "endpoint", "state", "pid", "", box=None, pad_edge=False)
    styles = {NodeState.READY: "green", NodeState.DOWN: "red"}
    for report in reports:
        table.add_row(
            report.name,
            report.role,
            report.endpoint,
            Text(report.state, style=styles.get(report.state, "yellow")),
            "" if report.pid is None else str(report.pid),
            Text(report.detail),  # a Text: an error may hold what looks like markup
        )
    return table


def summary(cluster: Cluster) -> str:
    """Where clients connect to, in a few lines."""
    spec = cluster.spec
    lines = [
        f"shard {shard}: CQL on {', '.join(spec.contact_points(shard))} port {spec.cql_port}"
        for shard in range(spec.shards)
    ]
    lines.append(f"data centre {DATA_CENTRE}, commit log sync {spec.commit_log_sync}, no credentials")
    if cluster.redis:
        lines.append(f"Redis Cluster: {spec.first_address} ports {spec.redis_ports[0]}-{spec.redis_ports[-1]}")
    return "\n".join(lines)


def _examine(cluster: Cluster, node: Node) -> NodeReport:
    process = node.process
    detail = ""
    if process is None:
        state = NodeState.DOWN
    elif process.paused():
        state = NodeState.PAUSED
    else:
        detail = _missing(node) or ""
        state = NodeState.UNREADY if detail else NodeState.READY
    role = _role(cluster, node, asked=state is NodeState.READY)
    return NodeReport(node.name, node.endpoint, role, state, None if process is None else process.pid, detail)


def _missing(node: Node) -> str | None:
    if isinstance(node, CassandraNode):
        return node.probe_ring()
    return node.probe_cluster() if isinstance(node, RedisNode) else node.probe()


def _role(cluster: Cluster, node: Node, *, asked: bool) -> str:
    if isinstance(node, CassandraNode):
        ring = cluster.spec.replicas > 1
        return f"shard {node.place.shard}" + (f", replica {node.place.replica}" if ring else "")
    if asked and isinstance(node, RedisNode):
        try:
            return f"redis {node.role()}"
        except NodeError:
            pass  # it has just gone; the next look tells
    return "redis"
