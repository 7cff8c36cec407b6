"""The session seam over cassandra-driver: administration, and stores where acsylla has no wheel."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import cassandra
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, ExecutionProfile, NoHostAvailable, ResponseFuture
from cassandra.cluster import Session as DriversOwn
from cassandra.policies import (
    ConstantReconnectionPolicy,
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    FallthroughRetryPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.protocol import ConfigurationException, SyntaxException
from cassandra.query import BatchStatement, BatchType, SimpleStatement

from shards.contract import Invalid, StoreError, Unavailable
from shards.settings import CassandraSettings
from shards.stores.cassandra import tls
from shards.stores.cassandra.session import Kind, Node, Prepared, Refusal, Session, Step, Value, Values

_WRITE_PROFILE: Final = "write"
_READ_PROFILE: Final = "read"
_SERIAL_PROFILE: Final = "serial"
_ONE_PROFILE: Final = "one"
_ADMIN_PROFILE: Final = "administration"
_PROFILE_OF: Final = {Kind.READ: _READ_PROFILE, Kind.SERIAL_READ: _SERIAL_PROFILE, Kind.WRITE: _WRITE_PROFILE}
_ADMIN_TIMEOUT_S: Final = 60.0
"""Of a schema change, at least: a node that has just started, or a busy one, takes seconds where a write takes
milliseconds, and what is given up here an operator has to look after. A node that hangs ends it by its heartbeat."""

_RECONNECT_S: Final = 0.5
_HEARTBEAT_S: Final = 2
_HEARTBEAT_TIMEOUT_S: Final = 4

_NOTHING_SENT: Final = (
    NoHostAvailable,  # this driver, told not to retry, says so only when it sent to nobody
    cassandra.Unavailable,  # Paxos v2 counts live replicas before it begins
    cassandra.Unauthorized,
    cassandra.AuthenticationFailed,
)
_REFUSED: Final = (cassandra.InvalidRequest, SyntaxException, ConfigurationException)
_UNBINDABLE: Final = (TypeError, ValueError, OverflowError, struct.error)  # raised before anything is sent


class _Answer(NamedTuple):
    """The rows of an answer."""

    names: Sequence[str]
    rows: Sequence[tuple[Value, ...]]


class DriverSession(Session):
    """A session of cassandra-driver, which has threads of its own. Open it with ``open``."""

    def __init__(self, cluster: Cluster, session: DriversOwn, settings: CassandraSettings) -> None:
        """Takes over a connected session; ``open`` is the way to get here."""
        self._cluster = cluster
        self._session = session
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls, settings: CassandraSettings) -> DriverSession:
        """Connects; the keyspace need not be there. Raises ``Unavailable``."""
        try:
            cluster = _cluster(settings)
        except (OSError, UnicodeError, cassandra.UnresolvableContactPoints) as error:  # files of TLS, host names
            raise Unavailable(f"{', '.join(settings.contact_points)}: {_text(error)}") from error
        try:
            session = await asyncio.to_thread(cluster.connect, wait_for_all_pools=True)
        except Exception as error:
            await asyncio.to_thread(cluster.shutdown)
            raise Unavailable(f"{', '.join(settings.contact_points)}: {_text(error)}") from error
        centers = {host.datacenter for host in cluster.metadata.all_hosts()}
        if settings.data_center not in centers:
            await asyncio.to_thread(cluster.shutdown)
            known = ", ".join(sorted(map(str, centers)))
            where = ", ".join(settings.contact_points)
            raise Unavailable(f"{where}: no node is in the data centre {settings.data_center}; there are {known}")
        session.default_fetch_size = None  # every select has a limit of its own
        return cls(cluster, session, settings)

    def __repr__(self) -> str:
        return f"<DriverSession {','.join(self._settings.contact_points)} under_way={self._under_way}>"

    async def prepare(self, cql: str) -> Prepared:
        """See ``Session.prepare``."""
        try:
            return await asyncio.to_thread(self._session.prepare, cql)
        except Exception as error:
            raise _translated(error) from error

    async def execute(self, statement: Prepared, values: Values, kind: Kind) -> Sequence[tuple[Value, ...]]:
        """See ``Session.execute``."""
        try:
            bound = statement.bind(values)
        except _UNBINDABLE as error:
            raise Invalid(_text(error)) from error
        bound.is_idempotent = kind is Kind.READ
        return (await self._run(bound, _PROFILE_OF[kind])).rows

    async def batch(self, steps: Sequence[Step]) -> Refusal | None:
        """See ``Session.batch``."""
        batch = BatchStatement(BatchType.UNLOGGED)
        try:
            for statement, values in steps:
                batch.add(statement, values)
        except _UNBINDABLE as error:
            raise Invalid(_text(error)) from error
        names, rows = await self._run(batch, _WRITE_PROFILE)
        if not rows:
            raise StoreError("a conditional batch was answered without a row")
        if rows[0][0]:
            return None
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def write(self, steps: Sequence[Step]) -> None:
        """See ``Session.write``."""
        batch = BatchStatement(BatchType.UNLOGGED)
        try:
            for statement, values in steps:
                batch.add(statement, values)
        except _UNBINDABLE as error:
            raise Invalid(_text(error)) from error
        await self._run(batch, _WRITE_PROFILE)

    async def run(self, cql: str, values: Values = ()) -> Sequence[tuple[Value, ...]]:
        """Executes a text at quorum, for administration: schema changes, and reads of system tables."""
        return (await self._run(SimpleStatement(cql), _ADMIN_PROFILE, values or None)).rows

    async def ask_nodes(self, cql: str) -> Sequence[Node]:
        """See ``Session.ask_nodes``."""
        hosts = [host for host in self._cluster.metadata.all_hosts() if host.is_up]
        asked = await asyncio.gather(*(self._ask(host, cql) for host in hosts))
        return [node for node in asked if node is not None]

    async def close(self) -> None:
        """See ``Session.close``."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._idle.wait()  # each request ends by its own timeout
        await asyncio.to_thread(self._cluster.shutdown)

    async def _ask(self, host: Any, cql: str) -> Node | None:  # noqa: ANN401  the driver's host
        asked_s = time.time()
        try:
            answer = await self._run(SimpleStatement(cql), _ONE_PROFILE, host=host)
        except StoreError:
            return None
        return Node(str(host.broadcast_rpc_address), answer.rows, asked_s, time.time())

    async def _run(self, statement: Any, profile: str, values: Any = None, host: Any = None) -> _Answer:  # noqa: ANN401  the driver's own types
        """Hands a statement to the driver's threads and takes its answer back to this loop."""
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        self._under_way += 1
        self._idle.clear()
        try:
            future: ResponseFuture = self._session.execute_async(
                statement, values, execution_profile=profile, host=host
            )
        except Exception as error:
            self._ended()
            raise _translated(error) from error
        future.add_callbacks(
            lambda rows: self._loop.call_soon_threadsafe(self._succeeded, answer, rows),
            lambda error: self._loop.call_soon_threadsafe(self._failed, answer, error),
        )
        try:
            return await answer
        except StoreError:
            raise
        except Exception as error:
            raise _translated(error) from error

    def _succeeded(self, answer: asyncio.Future[_Answer], rows: _Answer | None) -> None:
        self._ended()
        if not answer.done():
            answer.set_result(rows if isinstance(rows, _Answer) else _Answer((), ()))

    def _failed(self, answer: asyncio.Future[_Answer], error: Exception) -> None:
        self._ended()
        if not answer.done():
            answer.set_exception(error)

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()


def _cluster(settings: CassandraSettings) -> Cluster:
    consistency = cassandra.ConsistencyLevel.name_to_value[settings.consistency]
    serial = cassandra.ConsistencyLevel.name_to_value[settings.serial_consistency]
    # one coordinator a partition, the first live replica: rounds of Paxos that meet there wait for each other
    balancing = TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.data_center), shuffle_replicas=False)

    def profile(level: int, retry: RetryPolicy, delay_s: float = 0, timeout_s: float = 0) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=balancing,
            retry_policy=retry,
            consistency_level=level,
            serial_consistency_level=serial,
            request_timeout=max(timeout_s, settings.request_timeout_s),
            row_factory=_Answer,
            speculative_execution_policy=ConstantSpeculativeExecutionPolicy(delay_s, 1) if delay_s else None,
        )

    security: dict[str, object] = {}
    if settings.credentials is not None:
        security["auth_provider"] = PlainTextAuthProvider(settings.credentials.username, settings.credentials.password)
    if settings.tls is not None:
        security["ssl_context"] = tls.context(settings.tls)
    return Cluster(
        list(settings.contact_points),
        port=settings.port,
        protocol_version=cassandra.ProtocolVersion.V5,
        compression=False,
        connect_timeout=min(2.0, settings.request_timeout_s),
        control_connection_timeout=settings.request_timeout_s,  # reads of the driver's own, as it connects
        reconnection_policy=ConstantReconnectionPolicy(_RECONNECT_S, max_attempts=None),
        idle_heartbeat_interval=_HEARTBEAT_S,
        idle_heartbeat_timeout=_HEARTBEAT_TIMEOUT_S,
        monitor_reporting_enabled=False,
        execution_profiles={
            _WRITE_PROFILE: profile(consistency, FallthroughRetryPolicy()),
            _SERIAL_PROFILE: profile(serial, FallthroughRetryPolicy()),
            _READ_PROFILE: profile(consistency, RetryPolicy(), settings.speculative_delay_s),
            _ONE_PROFILE: profile(cassandra.ConsistencyLevel.ONE, FallthroughRetryPolicy()),
            _ADMIN_PROFILE: profile(consistency, FallthroughRetryPolicy(), timeout_s=_ADMIN_TIMEOUT_S),
        },
        **security,
    )


def _translated(error: Exception) -> StoreError:
    if isinstance(error, _NOTHING_SENT):
        return Unavailable(_text(error))
    if isinstance(error, _REFUSED):
        return Invalid(_text(error))
    return StoreError(_text(error))


def _text(error: Exception) -> str:
    if isinstance(error, NoHostAvailable):  # whose own text is a tuple with a table in it
        why = "; ".join(f"{host}: {reason}" for host, reason in error.errors.items())
        return f"NoHostAvailable: {why or error.args[0]}"
    if isinstance(error, cassandra.UnresolvableContactPoints):
        return f"{type(error).__name__}: none of these names is known"
    return f"{type(error).__name__}: {error}"
