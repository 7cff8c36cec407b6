"""The cluster as a whole: start it, tell how it is, end it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from deploy.cluster import jars, redis
from deploy.cluster.cassandra import CassandraNode
from deploy.cluster.errors import ClusterError
from deploy.cluster.leaflets import leaflets
from deploy.cluster.node import Node
from deploy.cluster.redis import RedisNode
from deploy.cluster.spec import ClusterSpec
from deploy.cluster.state import Made, StateDirectory

READY_TIMEOUT_S: Final = 300.0
"""For each step of ``up``: three JVMs that started together on two busy cores took 70 s."""

STOP_GRACE_S: Final = 20.0
"""For nodes to write down what they hold in memory; what they do not in time is in the commit log anyway."""


class Cluster:
    """A cluster in a folder. Nothing happens before ``up``.

    Any number of these may stand for one folder, in several processes: what runs is read from the system each time,
    and ``up`` and ``down`` exclude each other. With ``dies_with_parent`` the kernel kills the nodes that this object
    starts when this process ends: for tests, which may be killed themselves. As a context manager it
    is up inside, and down and wiped afterwards.
    """

    def __init__(
        self,
        spec: ClusterSpec,
        directory: Path,
        *,
        jars_directory: Path | None = None,
        dies_with_parent: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec: Final = spec
        self.state: Final = StateDirectory(directory)
        self._report: Final = report
        at = self.state.path

        @functools.cache
        def class_path() -> tuple[str, Sequence[Path]]:
            return jars.java(), jars.ensure(jars_directory or jars.default_directory())

        self._class_path: Final = class_path
        self.cassandra: Final = tuple(
            CassandraNode(spec, place, at / place.name, class_path=class_path, dies_with_parent=dies_with_parent)
            for place in spec.cassandra
        )
        """Every Cassandra node, shard by shard."""
        self.redis: Final = tuple(
            RedisNode(spec, port, at / f"redis-{port}", dies_with_parent=dies_with_parent) for port in spec.redis_ports
        )
        """Every Redis node; the first three began as masters."""

    @classmethod
    def recorded(cls, directory: Path, *, report: Callable[[str], None] = lambda _: None) -> Self | None:
        """Returns the cluster that was made in a folder, None when there is none."""
        made = StateDirectory(directory).load()
        return None if made is None else cls(made.spec, directory, report=report)

    def __repr__(self) -> str:
        return f"<Cluster {self.state.path}: {', '.join(map(repr, self.nodes))}>"

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down(grace_s=0, wipe=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down(grace_s=0, wipe=True)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, Cassandra first."""
        return self.cassandra + self.redis

    def node(self, shard: int, replica: int = 0) -> CassandraNode:
        """Returns a Cassandra node; ``replica`` counts from 0."""
        return self.cassandra[shard * self.spec.replicas + replica]

    def named(self, name: str) -> Node:
        """Returns the node of this name; raises ``ClusterError`` when there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise ClusterError(f"no node {name}; there are {', '.join(node.name for node in self.nodes)}")

    def up(self, *, timeout_s: float = READY_TIMEOUT_S) -> tuple[str, ...]:
        """Starts what is not running, on the data it had, and waits until everything serves; returns the names started.

        Each step takes at most ``timeout_s``. Doing it again is harmless. Raises ``ClusterError``: then what runs goes
        on running, ``up`` tries again and ``down`` ends it.
        """
        with self.state.held():
            made = self._agreed(self.state.load())
            # What is missing is installed, fetched or told before anything starts.
            if any(not node.alive for node in self.redis):
                redis.server()
            if any(not node.alive for node in self.cassandra):
                self._class_path()
            self.state.save(made)
            started = self._start(made, timeout_s)
            if self.redis and not made.redis_formed:
                redis.form(self.redis)
                made = replace(made, redis_formed=True)
                self.state.save(made)
            for node, since in started.items():
                node.wait_ready(timeout_s)
                self._report(f"{node.name} serves after {time.monotonic() - since:.1f} s")
            self.wait_ready(timeout_s)
            self.state.save(replace(made, rings_formed=self.spec.shards))
            for name, text in leaflets(self.spec, self.state.path).items():
                self.state.leave(name, text)
        return tuple(node.name for node in started)

    def down(self, *, grace_s: float = STOP_GRACE_S, wipe: bool = False) -> tuple[str, ...]:
        """Ends every node that was started here, in ``grace_s`` or by force; returns the names of those that ran.

        Nothing else is touched. Data stay for the next ``up``, unless ``wipe`` removes the folder. Doing it again is
        harmless.
        """
        if self.state.load() is None:
            return ()
        with self.state.held():
            running = [node for node in self.nodes if node.alive]
            deadline = time.monotonic() + grace_s
            if grace_s > 0:
                for node in running:
                    node.ask_to_end()
            for node in running:
                node.stop(max(0.0, deadline - time.monotonic())) if grace_s > 0 else node.kill()
                self._report(f"{node.name} ended")
            if wipe:
                self.state.wipe()
        return tuple(node.name for node in running)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until every node serves and reaches its peers; raises ``NodeError``."""
        deadline = time.monotonic() + timeout_s
        for cassandra in self.cassandra:
            cassandra.wait_ready(deadline - time.monotonic(), probe=cassandra.probe_ring)
        for node in self.redis:
            node.wait_ready(deadline - time.monotonic(), probe=node.probe_cluster)

    def _agreed(self, made: Made | None) -> Made:
        """What will be recorded; refuses a spec that would not fit the data, or that running nodes do not have."""
        if made is None:
            return Made(self.spec)
        changes = self.spec.changes_from(made.spec)
        if not self.spec.keeps_data_of(made.spec):
            raise ClusterError(
                f"{self.state.path} holds another cluster (differs in {', '.join(changes)}): "
                "remove that with `down --wipe`, or choose another folder"
            )
        if set(changes) - {"shards", "redis"} and any(node.alive for node in self.nodes):
            raise ClusterError(f"the cluster runs with other settings ({', '.join(changes)}): end it with `down` first")
        return replace(made, spec=self.spec)

    def _start(self, made: Made, timeout_s: float) -> dict[Node, float]:
        """Starts what is not running; returns it with the time when. The Redis nodes answer when this returns.

        Starting is spawning, which takes no time, and everything starts before anything is waited for. Only nodes which
        have never met join their ring one after the other, beside the other rings.
        """
        started: dict[Node, float] = {}

        def start(node: Node) -> None:
            if not node.alive:
                node.start()
                started[node] = time.monotonic()
                self._report(f"{node.name} starts on {node.endpoint}")

        for node in self.redis:
            start(node)
        for step in range(self.spec.replicas):
            joining = [node for node in self.cassandra if node.place.replica == step]
            for joined in joining:
                start(joined)
            for joined in joining:
                if joined.place.shard >= made.rings_formed and step + 1 < self.spec.replicas:
                    joined.wait_ready(timeout_s)
        for node in self.redis:
            node.wait_ready(timeout_s)
        return started
