"""The way to the workers: finds them, balances over them, and follows them when they change.

A client knows one or more *seeds*. From any of them it learns, by ``GetTopology``, the workers' own endpoints, and
balances over those: a gRPC channel with ``weighted_round_robin`` and health checking, so that calls go to the workers
that serve, by the room that each says it has; a dead worker is left out at once, and a draining one gets no new calls.
``WatchTopology`` tells about changes; then a new channel takes over and the old one is closed when its last call has
ended. A server that has no topology, or workers that cannot be reached under their advertised addresses, leave the
client on its seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import grpc

from clients import endpoints
from clients.placing import Placing
from clients.subsetting import subset
from clients.tls import Tls
from protos.orders.v1 import orders_pb2_grpc
from protos.topology.v1 import topology_pb2, topology_pb2_grpc

if TYPE_CHECKING:
    from protos.orders.v1.orders_pb2_grpc import OrderServiceAsyncStub
    from protos.topology.v1.topology_pb2_grpc import TopologyServiceAsyncStub

log = logging.getLogger(__name__)

POLICIES: Final = ("weighted_round_robin", "round_robin", "pick_first")
"""How calls are spread over the workers: by the room that each reports, evenly, or all to one."""

_WEIGHING: Final = {
    "blackoutPeriod": "0s",  # a worker that starts is weighed by its first reports; they are smoothed by themselves
    "weightUpdatePeriod": "0.1s",
    "weightExpirationPeriod": "10s",
    "errorUtilizationPenalty": 10.0,  # one that fails every tenth call counts as full
}
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),  # this library retries, with the request id and the budget that gRPC does not know
    # A worker that was killed is back in a second or two: look for it twice a second, not after gRPC's 1-120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    # The largest call is 3 MiB of messages; answers come with as much and their trailers.
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel must not inherit the back-off of an old one
    # A worker that is stopped, or whose machine is gone, keeps its connections open: it is left out after 3 s without
    # an answer to a ping. Each connection has a health watch, so there is always a call under way to ask for.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
)
DISCOVERY_TIMEOUT_S: Final = 1.0
"""How long the first call waits for the topology before it goes to the seeds instead."""
READY_TIMEOUT_S: Final = 1.0
"""How long a new channel has to reach one worker before it is given up."""
_WATCH_BACKOFF_MAX_S: Final = 5.0
TLS_LOOK_S: Final = 1.0
"""How often the certificate files are looked at."""


def _service_config(policy: str) -> str:
    parameters = _WEIGHING if policy == "weighted_round_robin" else {}
    return json.dumps(
        {
            "loadBalancingConfig": [{policy: parameters}],
            "healthCheckConfig": {"serviceName": "orders.v1.OrderService"},
        }
    )


class Link:
    """One channel and its stubs; counts the calls that use it, so that it closes after the last one."""

    def __init__(
        self, addresses: Sequence[str], target: str, policy: str, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self.addresses = tuple(addresses)
        self.target = target
        self.calls = 0
        self._retired = False
        # Without this the authority is the list of all addresses, which is none by RFC 3986, and servers refuse it.
        authority = ("grpc.default_authority", self.addresses[0])
        config = ("grpc.service_config", _service_config(policy))
        options = (*_OPTIONS, config, authority)
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(target, options=options)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, options=options)
        self.orders: OrderServiceAsyncStub = orders_pb2_grpc.OrderServiceStub(self.channel)
        self.topology: TopologyServiceAsyncStub = topology_pb2_grpc.TopologyServiceStub(self.channel)
        self._closing: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Link {','.join(self.addresses)}, {self.calls} calls in flight{', retired' * self._retired}>"

    @contextlib.contextmanager
    def used(self) -> Iterator[Link]:
        """Holds the channel open for one call."""
        self.calls += 1
        try:
            yield self
        finally:
            self.calls -= 1
            self._close_when_idle()

    def retire(self) -> None:
        """Closes the channel when its last call has ended; calls under way are never cut off."""
        self._retired = True
        self._close_when_idle()

    async def ready(self, timeout_s: float) -> bool:
        """Waits until at least one address answers and serves; False when none does in time."""
        try:
            await asyncio.wait_for(self.channel.channel_ready(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Closes the channel now; calls under way are cancelled."""
        self._retired = True
        if self._closing is not None:
            await self._closing
        else:
            await self.channel.close()

    def _close_when_idle(self) -> None:
        if self._retired and not self.calls and self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self.channel.close())


class Fleet:
    """The present link to the workers, and the task that keeps it present."""

    def __init__(
        self,
        seeds: Sequence[str],
        *,
        metadata: Sequence[tuple[str, str]] = (),
        discover: bool = True,
        policy: str = POLICIES[0],
        tls: Tls | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"there is no balancing by {policy!r}; choose one of {', '.join(POLICIES)}")
        self.seeds = tuple(seeds)
        self.placing = Placing()
        """Where orders live, by the last topology that was told."""
        self._policy = policy
        self._tls = tls
        self._stamp = None if tls is None else tls.stamp()
        self._credentials = None if tls is None else tls.credentials()
        self._renewer: asyncio.Task[None] | None = None
        self._number = random.randrange(2**32)  # noqa: S311 - which subset of many workers this client takes
        self._metadata = tuple(metadata)
        self._discover = discover
        self._link: Link | None = None
        self._old: set[Link] = set()
        self._missed = ""
        """Where no worker answered when it was tried last."""
        self._opening = asyncio.Lock()
        self._moving = asyncio.Lock()
        self._discovered = asyncio.Event()
        """The workers were asked for once, with or without success."""
        self._follower: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Fleet {', '.join(self.seeds)}: {self.describe()}>"

    def describe(self) -> str:
        """Returns the live state in words, for a repr."""
        if self._closed:
            return "closed"
        if self._link is None:
            return "not connected"
        balanced = f"{len(self._link.addresses)} workers" if self._link.addresses != self.seeds else "seeds only"
        return f"{balanced}, {self.calls} calls in flight"

    @property
    def calls(self) -> int:
        """How many calls are in flight."""
        return sum(link.calls for link in (*self._old, self._link) if link is not None)

    @property
    def addresses(self) -> tuple[str, ...]:
        """What calls are balanced over at this moment; empty before the first call."""
        return self._link.addresses if self._link is not None else ()

    async def link(self, patience_s: float = DISCOVERY_TIMEOUT_S + READY_TIMEOUT_S) -> Link:
        """Returns the present link; the first call connects, and waits so long for the workers to be found.

        Never fails because nobody answers: the call that asked finds that out. Raises OSError when no seed can be
        resolved, RuntimeError when closed.
        """
        if self._link is None:
            async with self._opening:
                if self._link is None:
                    await self._open()
        if not self._discovered.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._discovered.wait(), patience_s)
        if self._closed or self._link is None:
            raise RuntimeError("the client is closed")
        return self._link

    async def close(self) -> None:
        """Cancels the calls under way and closes every channel. Idempotent."""
        self._closed = True
        for task in (self._follower, self._renewer):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        links = [link for link in (*self._old, self._link) if link is not None]
        self._link, self._follower, self._renewer = None, None, None
        self._old.clear()
        for link in links:
            await link.close()

    async def _open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
        self._link = await self._to(self.seeds)
        if self._tls is not None:
            self._renewer = asyncio.create_task(self._renew(self._tls), name="crest-certificates")
        if self._discover:
            self._follower = asyncio.create_task(self._find_and_follow(self._link), name="crest-topology")
        else:
            self._discovered.set()

    async def _find_and_follow(self, seeds: Link) -> None:
        try:
            with seeds.used():
                answer = await seeds.topology.GetTopology(
                    topology_pb2.GetTopologyRequest(), timeout=DISCOVERY_TIMEOUT_S, metadata=self._metadata
                )
            await self._adopt(answer.topology)
        except grpc.aio.AioRpcError as error:
            log.debug("no topology from %s: %s", seeds, error.code())
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return
        finally:
            self._discovered.set()
        await self._follow()

    async def _follow(self) -> None:
        """Adopts every topology that a worker streams; when a stream ends another worker is asked, by and by."""
        failures = 0
        while True:
            link, temporary = self._link, None
            if failures % 2 == 1:  # the workers we know may all be gone: ask where we began
                with contextlib.suppress(OSError):
                    link = temporary = await self._to(self.seeds)
            assert link is not None
            try:
                with link.used():
                    stream = link.topology.WatchTopology(topology_pb2.WatchTopologyRequest(), metadata=self._metadata)
                    async for answer in stream:
                        if not await self._adopt(answer.topology):
                            stream.cancel()  # asked again by and by: those workers may only be slow to start
                            break
                        failures = 0
                failures += 1  # a worker that drains ends the stream
            except grpc.aio.AioRpcError as error:
                failures += 1
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                    return
            finally:
                if temporary is not None:
                    temporary.retire()
            await asyncio.sleep(_jittered_s(failures))

    async def _adopt(self, topology: topology_pb2.Topology) -> bool:
        """Moves to a new channel when the workers' addresses are not those of the present one.

        False when no worker can be reached at them now, and the present channel goes on.
        Their states do not matter here: health checking sees those sooner, and a replaced worker keeps its address.
        """
        present = self._link
        assert present is not None
        self.placing.adopt(topology.slot_shards)
        workers = tuple(worker.address for worker in topology.workers if worker.address)
        addresses = subset(workers, self._number) or self.seeds
        return set(addresses) == set(present.addresses) or await self._move(addresses)

    async def _to(self, addresses: Sequence[str]) -> Link:
        return Link(addresses, await endpoints.resolve(addresses), self._policy, self._credentials)

    async def _move(self, addresses: Sequence[str]) -> bool:
        """Puts a new channel in the place of the present one; False when no worker can be reached by it."""
        async with self._moving:
            present = self._link
            if present is None:
                return False
            try:
                successor = await self._to(addresses)
            except (OSError, ValueError) as error:
                log.warning("staying with %s: the advertised workers cannot be resolved: %s", present.target, error)
                return False
            if not await successor.ready(READY_TIMEOUT_S):
                level = logging.DEBUG if successor.target == self._missed else logging.WARNING  # tried again and again
                log.log(level, "staying with %s: no worker answers at %s", present.target, successor.target)
                self._missed = successor.target
                await successor.close()
                return False
            self._link, self._missed = successor, ""
            self._old = {link for link in self._old if link.calls} | {present}
            present.retire()
            log.info("balancing over %s", successor.target)
            return True

    async def _renew(self, tls: Tls) -> None:
        """Moves to a channel with new certificates when their files have changed; what is broken leaves the old one."""
        while True:
            await asyncio.sleep(TLS_LOOK_S)
            stamp = tls.stamp()
            if stamp == self._stamp or self._link is None:
                continue
            before = self._credentials
            try:
                self._credentials = tls.credentials()
            except ValueError as error:
                self._stamp = stamp
                log.warning("keeping the certificates as they were: %s", error)
                continue
            if await self._move(self._link.addresses):
                self._stamp = stamp
            else:  # perhaps the servers do not know them yet: look again
                self._credentials = before


def _jittered_s(failures: int) -> float:
    return random.uniform(0, min(_WATCH_BACKOFF_MAX_S, 0.1 * 2 ** min(failures, 10)))  # noqa: S311 - jitter, no secret
