"""The session seam over acsylla: the hot path."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import acsylla
from acsylla import errors

from shards.contract import Invalid, Overloaded, StoreError, Unavailable
from shards.settings import CassandraSettings
from shards.stores.cassandra import tls
from shards.stores.cassandra.session import Kind, Node, Prepared, Refusal, Session, Step, Value, Values

_READ_PROFILE: Final = "read"
_TWICE_PROFILE: Final = "twice"  # reads that may be sent to a second node
_LOST_S: Final = 1.0
"""So long after its timeout a read that may be sent twice is given up: the driver stops the timer of both tries when
one of them finds no node, and forgets the other when its connection then ends."""

_COALESCE_US: Final = 50  # the driver waits so long for company; our batches are company enough
_HEARTBEAT_S: Final = 2  # a node that hangs is noticed, and its connection dropped, after
_IDLE_S: Final = 6  # so many seconds without a heartbeat
_RECONNECT_MS: Final = 500
_NODES_MAX: Final = 64  # nodes asked one by one for administration
_SEEN_S: Final = 0.05
"""So long after an answer a node counts as connected, unless a call failed since: a few rounds. The driver counts its
connections only together with sums over all latencies, which takes 0.3 ms: longer than binding a hundred rows. What is
sent in that time to a node that has just died is of unknown outcome, so it has to be short."""

_NEVER_S: Final = float("-inf")

_NOTHING_SENT: Final = (
    errors.CassErrorServerUnavailable,  # Paxos v2 counts live replicas before it begins
    errors.CassErrorServerIsBootstrapping,
    errors.CassErrorServerUnauthorized,
    errors.CassErrorServerBadCredentials,
    errors.CassErrorLibUnableToConnect,
    errors.CassErrorLibHostResolution,
    errors.CassErrorLibUnableToInit,
    errors.CassErrorSourceSsl,
    errors.CassExceptionConnectionError,
)
"""Errors after which no node has begun the statement. No hosts available is not one of them: the driver turns to the
next node when writing to a connection fails, and of what it wrote there all may have arrived."""

_FULL: Final = (errors.CassErrorLibRequestQueueFull, errors.CassErrorLibNoStreams)

_REFUSED: Final = (
    errors.CassErrorServerInvalidQuery,
    errors.CassErrorServerSyntaxError,
    errors.CassErrorServerConfigError,
    errors.CassErrorLibBadParams,
    errors.CassErrorLibInvalidValueType,
    errors.CassErrorLibInvalidItemCount,
    errors.CassErrorLibIndexOutOfBounds,
    errors.CassErrorLibParameterUnset,
    errors.CassErrorLibMessageEncode,
    errors.CassExceptionSyntaxError,
    errors.CassExceptionInvalidQuery,
)
"""Errors of the statement itself: checked before anything is done."""

_UNBINDABLE: Final = (TypeError, ValueError, OverflowError)
"""What binding raises for a value that no column takes; nothing was sent."""


class _Verify(enum.Enum):
    """What of a node's certificate is checked: bits of ``CASS_SSL_VERIFY_...`` in the C++ driver's ``cassandra.h``.

    acsylla's own enumeration gives ``PEER_IDENTITY`` the number of ``PEER_CERT``, so that no address is checked; the
    right number by itself checks nothing but the address.
    """

    CERTIFICATE = 1
    CERTIFICATE_AND_ADDRESS = 1 | 2


class AcsyllaSession(Session):
    """A session of acsylla, with one I/O thread. Open it with ``open``."""

    def __init__(
        self, cluster: acsylla.Cluster, session: acsylla.Session, settings: CassandraSettings, read_profile: str | None
    ) -> None:
        """Takes over a connected session; ``open`` is the way to get here."""
        self._read_profile = read_profile
        self._cluster = cluster
        self._session = session
        self._settings = settings
        self._write = acsylla.Consistency[settings.consistency]
        self._serial = acsylla.Consistency[settings.serial_consistency]
        self._closing: asyncio.Future[None] | None = None
        self._seen_s = _NEVER_S  # when a node was last known to be connected

    @classmethod
    async def open(cls, settings: CassandraSettings) -> AcsyllaSession:
        """Connects. Raises ``Unavailable``, or ``Invalid`` when there is no such keyspace."""
        try:
            cluster = _cluster(settings)
        except OSError as error:  # files of TLS that are not what they should be
            raise Unavailable(f"{', '.join(settings.contact_points)}: {_text(error)}") from error
        try:
            session = await cluster.create_session(keyspace=settings.keyspace)  # what batches are routed by
        except (errors.CassErrorLibUnableToSetKeyspace, errors.CassErrorServerInvalidQuery) as error:
            cluster.destroy()
            raise Invalid(_text(error)) from error
        except errors.CassException as error:
            cluster.destroy()
            raise Unavailable(f"{', '.join(settings.contact_points)}: {_text(error)}") from error
        profile = (
            None  # a cluster of one node has nobody else to ask, and a try that finds nobody does harm: see _LOST_S
        )
        if await _has_peers(session):
            profile = _TWICE_PROFILE if settings.speculative_delay_s else _READ_PROFILE
        return cls(cluster, session, settings, profile)

    def __repr__(self) -> str:
        return f"<AcsyllaSession {','.join(self._settings.contact_points)} connections={self._connections()}>"

    async def prepare(self, cql: str) -> Prepared:
        """See ``Session.prepare``."""
        return await self._answer(self._session.create_prepared(cql))

    async def execute(self, statement: Prepared, values: Values, kind: Kind) -> Sequence[tuple[Value, ...]]:
        """See ``Session.execute``."""
        try:
            bound = statement.bind(values)
            if kind is Kind.READ and self._read_profile is not None:
                bound.set_is_idempotent(True)
                bound.set_execution_profile(self._read_profile)
                async with asyncio.timeout(self._settings.request_timeout_s + _LOST_S):
                    result = await self._session.execute(bound)
            else:
                if kind is Kind.SERIAL_READ:
                    bound.set_consistency(self._serial)
                result = await self._session.execute(bound)
        except _UNBINDABLE as error:
            raise Invalid(_text(error)) from error
        except errors.CassErrorLibNoHostsAvailable as error:
            self._seen_s = _NEVER_S
            raise (StoreError if kind is Kind.WRITE else Unavailable)(_text(error)) from error
        except TimeoutError as error:
            self._seen_s = _NEVER_S
            raise StoreError("the driver did not answer") from error
        except errors.CassException as error:
            self._seen_s = _NEVER_S
            raise _translated(error) from error
        if result.count() > 1:
            return [row.as_tuple() for row in result.all()]
        first = result.first()  # without the iterator, which costs more than the row
        return () if first is None else (first.as_tuple(),)

    async def batch(self, steps: Sequence[Step]) -> Refusal | None:
        """See ``Session.batch``."""
        if not self._is_connected():
            # asked for before it is sent, because afterwards "no hosts" would not say whether one had been there
            raise Unavailable("no node is connected")
        try:
            batch = acsylla.create_batch_unlogged()
            for statement, values in steps:
                batch.add_statement(statement.bind(values))
            result = await self._session.execute_batch(batch)
        except _UNBINDABLE as error:
            raise Invalid(_text(error)) from error
        except errors.CassException as error:
            self._seen_s = _NEVER_S
            raise _translated(error) from error
        self._seen_s = time.monotonic()
        first = result.first()
        if first is None:
            raise StoreError("a conditional batch was answered without a row")
        if first.column_value_by_index(0):
            return None
        names = [str(name) for name in result.columns_names()]
        return [dict(zip(names, row.as_tuple(), strict=True)) for row in result.all()]

    async def write(self, steps: Sequence[Step]) -> None:
        """See ``Session.write``."""
        try:
            batch = acsylla.create_batch_unlogged()
            for statement, values in steps:
                batch.add_statement(statement.bind(values))
            await self._session.execute_batch(batch)
        except _UNBINDABLE as error:
            raise Invalid(_text(error)) from error
        except errors.CassException as error:
            raise _translated(error) from error

    async def ask_nodes(self, cql: str) -> Sequence[Node]:
        """See ``Session.ask_nodes``."""
        local = await self._answer(self._session.execute(_plain("SELECT rpc_address FROM system.local")))
        peers = await self._answer(self._session.execute(_plain("SELECT rpc_address FROM system.peers")))
        addresses = [str(row.column_value_by_index(0)) for rows in (local, peers) for row in rows.all()]
        asked = await asyncio.gather(*(self._ask(address, cql) for address in addresses[:_NODES_MAX]))
        return [node for node in asked if node is not None]

    async def close(self) -> None:
        """See ``Session.close``."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._session.close()  # waits for requests under way
        self._cluster.destroy()  # it holds sockets, registered with the event loop

    async def _ask(self, address: str, cql: str) -> Node | None:
        statement = _plain(cql)
        statement.set_host(address, self._settings.port)
        asked_s = time.time()
        try:
            result = await self._session.execute(statement)
        except errors.CassException:
            return None
        answered_s = time.time()
        return Node(address, [row.as_tuple() for row in result.all()], asked_s, answered_s)

    async def _answer(self, call: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401  the driver's own types
        try:
            return await call
        except errors.CassErrorLibNoHostsAvailable as error:
            raise Unavailable(_text(error)) from error
        except errors.CassException as error:
            raise _translated(error) from error

    def _is_connected(self) -> bool:
        """Tells whether a node is connected, or was a moment ago."""
        now = time.monotonic()
        if now - self._seen_s > _SEEN_S:
            if not self._connections():
                return False
            self._seen_s = now
        return True

    def _connections(self) -> int:
        return int(self._session.metrics().stats_total_connections)


async def _has_peers(session: acsylla.Session) -> bool:
    """Tells whether the cluster has more than one node; yes where that cannot be learnt."""
    try:
        return bool((await session.execute(_plain("SELECT rpc_address FROM system.peers"))).count())
    except errors.CassException:
        return True


def _plain(cql: str) -> acsylla.Statement:
    return acsylla.create_statement(cql, consistency=acsylla.Consistency.ONE)


def _cluster(settings: CassandraSettings) -> acsylla.Cluster:
    consistency = acsylla.Consistency[settings.consistency]
    serial = acsylla.Consistency[settings.serial_consistency]
    security: dict[str, object] = {}
    if settings.credentials is not None:
        security |= {"username": settings.credentials.username, "password": settings.credentials.password}
    if settings.tls is not None:
        files = settings.tls
        tls.context(files)  # raises what the driver would, but before it holds anything that nobody could close
        flags = _Verify.CERTIFICATE_AND_ADDRESS if files.verify_host else _Verify.CERTIFICATE
        security |= {
            "ssl_enabled": True,
            "ssl_verify_flags": flags,
            "ssl_trusted_cert": _pem(files.ca_file),
            "ssl_cert": _pem(files.cert_file),
            "ssl_private_key": _pem(files.key_file),
        }
    cluster = acsylla.create_cluster(
        list(settings.contact_points),
        port=settings.port,
        connect_timeout=min(2.0, settings.request_timeout_s),
        request_timeout=settings.request_timeout_s,
        consistency=consistency,
        serial_consistency=serial,
        load_balance_dc_aware=settings.data_center,
        # one coordinator a partition, the first live replica: rounds of Paxos that meet there wait for each other
        token_aware_routing_shuffle_replicas=False,
        randomized_contact_points=False,  # or each session begins at a replica of its own, chosen by the same dice
        retry_policy="fallthrough",
        num_threads_io=1,
        coalesce_delay_us=_COALESCE_US,
        constant_reconnect_delay_ms=_RECONNECT_MS,
        exponential_reconnect_base_delay_ms=None,  # its default would be set after the constant, and win
        exponential_reconnect_max_delay_ms=None,
        heartbeat_interval_sec=_HEARTBEAT_S,
        idle_timeout_sec=_IDLE_S,
        application_name="crest",
        application_version="",
        # off: the driver hands its messages to the newest cluster object of the process, whether that lives or not
        log_level="disabled",
        monitor_reporting_interval_sec=0,
        **security,
    )
    read: dict[str, object] = {
        "request_timeout": round(settings.request_timeout_s * 1_000),
        "consistency": consistency,
        "serial_consistency": serial,
        "load_balance_dc_aware": settings.data_center,  # a profile that is not told takes nodes of all data centres
        "retry_policy": "default",
    }
    cluster.create_execution_profile(_READ_PROFILE, **read)
    if settings.speculative_delay_s:
        twice = acsylla.SpeculativeExecutionPolicy(round(settings.speculative_delay_s * 1_000), 1)
        cluster.create_execution_profile(_TWICE_PROFILE, **read, speculative_execution_policy=twice)
    return cluster


def _pem(path: str) -> str | None:
    return Path(path).read_text(encoding="ascii") if path else None


def _translated(error: errors.CassException) -> StoreError:
    if isinstance(error, _NOTHING_SENT):
        return Unavailable(_text(error))
    if isinstance(error, _FULL):
        return Overloaded(_text(error))
    if isinstance(error, _REFUSED):
        return Invalid(_text(error))
    return StoreError(_text(error))


def _text(error: BaseException) -> str:
    return f"{type(error).__name__.removeprefix('CassError')}: {error}"
