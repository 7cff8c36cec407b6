"""What a cluster leaves in its folder for those who connect to it: the shards as a topology file, and settings. Pure.

The service is told of this cluster as of any other, by files, and nothing here imports it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from deploy.cluster.cassandra import DATA_CENTRE
from deploy.cluster.spec import ClusterSpec

TOPOLOGY_FILE: Final = "topology.toml"
SERVER_SETTINGS: Final = "server.toml"

_MADE: Final = "# Written by `make up`, each time.\n"


def leaflets(spec: ClusterSpec, directory: Path) -> dict[str, str]:
    """Returns the content of each file by its name; ``directory`` is where they will stand."""
    return {TOPOLOGY_FILE: topology_file(spec), SERVER_SETTINGS: server_settings(spec, directory / TOPOLOGY_FILE)}


def topology_file(spec: ClusterSpec) -> str:
    """Returns the shards as ``docs/topology-file.md`` has them: a keyspace each, with a copy on every node."""
    defaults = {"port": spec.cql_port, "data_center": DATA_CENTRE, "replication": spec.replicas}
    tables = [
        "[[shards]]\n" + _toml({"id": shard, "contact_points": list(spec.contact_points(shard))})
        for shard in range(spec.shards)
    ]
    return "\n".join([_MADE + "[defaults]\n" + _toml(defaults), *tables])


def server_settings(spec: ClusterSpec, topology: Path) -> str:
    """Returns the settings of a server on this cluster: its shards, and its Redis Cluster if it has one."""
    settings: dict[str, object] = {"store": "cassandra", "topology_file": str(topology)}
    if spec.redis:
        seeds = ",".join(f"{spec.first_address}:{port}" for port in spec.redis_ports)
        settings |= {"cache": "redis_cluster", "redis_seeds": seeds}
    return _MADE + _toml(settings)


def _toml(values: dict[str, object]) -> str:
    # strings, numbers and lists of them are written in TOML as in JSON, but for DEL, which JSON leaves bare
    return "".join(f"{key} = {json.dumps(value)}\n".replace("\x7f", "\\u007f") for key, value in values.items())
