"""A Redis Cluster of three masters and three replicas: its nodes, and how they become a cluster.

Asked and formed through ``redis-cli``, which comes with the server. An append-only file lets a node that was killed
come back with its data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.cluster.errors import MissingError, NodeError
from deploy.cluster.node import PROBE_TIMEOUT_S, Node
from deploy.cluster.spec import REDIS_BUS_OFFSET, REDIS_NODES, ClusterSpec

FORM_TIMEOUT_S: Final = 60.0
"""For six nodes to agree on their slots: about 2 s on an idle machine."""

INSTALL_TIMEOUT_S: Final = 300.0
INSTALL: Final = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "redis-server")
UNSETTLED: Final = frozenset({"fail", "fail?", "handshake", "noaddr", "disconnected"})


class RedisNode(Node):
    """One Redis node; master or replica is for the cluster to decide, and changes with a failover."""

    def __init__(self, spec: ClusterSpec, port: int, directory: Path, *, dies_with_parent: bool) -> None:
        super().__init__(f"redis-{port}", directory, dies_with_parent=dies_with_parent)
        self.address: Final = spec.first_address
        self.port: Final = port
        self._spec: Final = spec

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"{self.address}:{self.port}"

    @property
    def listens(self) -> tuple[tuple[str, int], ...]:
        """The port, and the one of the cluster bus."""
        return (self.address, self.port), (self.address, self.port + REDIS_BUS_OFFSET)

    def ask(self, *words: str, timeout_s: float = PROBE_TIMEOUT_S) -> str:
        """Runs a command and returns what ``redis-cli`` prints; raises ``NodeError`` for no answer or an error."""
        return _cli("-e", "-h", self.address, "-p", str(self.port), *words, timeout_s=timeout_s)

    def probe(self) -> str | None:
        """Whether it answers PING, having loaded its data."""
        try:
            answer = self.ask("PING")
        except NodeError as error:
            return str(error)
        return None if answer == "PONG" else answer

    def probe_cluster(self) -> str | None:
        """Whether it sees the whole cluster well and, as a replica, has its master's data."""
        try:
            info = dict(line.split(":", 1) for line in self.ask("CLUSTER", "INFO").splitlines() if ":" in line)
            # ID address flags master ping pong epoch link-state slots...
            peers = [line.split() for line in self.ask("CLUSTER", "NODES").splitlines()]
            link = "master_link_status:down" in self.ask("INFO", "replication")
        except NodeError as error:
            return str(error)
        if info.get("cluster_state") != "ok":
            return f"cluster_state is {info.get('cluster_state')}"
        unsettled = [peer[1] for peer in peers if UNSETTLED & {*peer[2].split(","), peer[7]}]
        if unsettled or len(peers) != REDIS_NODES:
            return f"it sees {len(peers)} nodes, not well: {', '.join(unsettled) or 'none'}"
        replicas = [peer[3] for peer in peers if "slave" in peer[2].split(",")]
        if len(replicas) != REDIS_NODES // 2:
            return f"it sees {len(replicas)} replicas of {REDIS_NODES // 2}"
        return "it is still copying its master's data" if link else None

    def role(self) -> str:
        """``master`` or ``replica``; raises ``NodeError`` when it does not answer."""
        return "master" if self.ask("ROLE").partition("\n")[0] == "master" else "replica"

    def _prepare(self) -> Sequence[str]:
        config = self.directory / "redis.conf"
        config.write_text("".join(f"{line}\n" for line in settings(self._spec, self.port, self.directory)))
        return server(), str(config)


def settings(spec: ClusterSpec, port: int, directory: Path) -> tuple[str, ...]:
    """Returns the lines of ``redis.conf``. Pure."""
    return (
        f"bind {spec.first_address}",
        f"port {port}",
        "protected-mode no",  # it takes 127.0.0.1 alone for local, and other loopback addresses are as local
        f'dir "{directory}"',
        "cluster-enabled yes",
        f"cluster-port {port + REDIS_BUS_OFFSET}",
        f"cluster-announce-ip {spec.first_address}",
        f"cluster-node-timeout {spec.redis_node_timeout_ms}",
        f"maxmemory {spec.redis_memory_mib}mb",
        "maxmemory-policy allkeys-lru",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',  # the append-only file is the one copy on disk
        "repl-diskless-sync-delay 0",  # one replica each: there is no second one to wait for
        "shutdown-timeout 1",
    )


def server() -> str:
    """Path of redis-server; installs Debian's package when it is missing and we may.

    Raises ``MissingError`` with what to type otherwise.
    """
    found = shutil.which("redis-server")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install()
        found = shutil.which("redis-server")
    if found is None:
        raise MissingError("redis-server is missing. Debian 12: apt-get install redis-server")
    return found


def _install() -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done: subprocess.CompletedProcess[str] | None = None
    # The package lists may be there or not; getting them takes longer than the package.
    for command in (INSTALL, ("apt-get", "update", "--quiet"), INSTALL):
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S
        )
        if command is INSTALL and done.returncode == 0:
            return
    words = done.stderr.strip().splitlines() if done else []
    raise MissingError(f"apt-get could not install redis-server: {words[-1] if words else 'it did not say why'}")


def form(nodes: Sequence[RedisNode]) -> None:
    """Makes a cluster of nodes that run and never were one; what an interrupted try left is forgotten first.

    Raises ``NodeError`` when they do not agree.
    """
    for node in nodes:
        node.ask("CLUSTER", "RESET", "HARD")
    endpoints = [node.endpoint for node in nodes]
    _cli("--cluster", "create", *endpoints, "--cluster-replicas", "1", "--cluster-yes", timeout_s=FORM_TIMEOUT_S)


def _cli(*words: str, timeout_s: float) -> str:
    tool = shutil.which("redis-cli")
    if tool is None:
        raise MissingError("redis-cli is missing. Debian 12: apt-get install redis-tools")
    try:
        done = subprocess.run([tool, *words], capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"no answer within {timeout_s:.0f} s") from error
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise NodeError(told[-1])
    return done.stdout.strip()
