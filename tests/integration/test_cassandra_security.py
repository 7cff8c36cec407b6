"""A node that speaks only TLS, to clients it knows, and asks for a password: both drivers serve on it, or say why."""

import dataclasses
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import pytest_asyncio
import trustme
from cryptography.hazmat.primitives import serialization

from deploy.cluster import CassandraNode, MissingError, jars
from deploy.cluster.node import PROBE_TIMEOUT_S
from shards.contract import APPLIED, Consistency, Unavailable
from shards.settings import CassandraSettings, Credentials, Tls
from shards.stores.cassandra import CassandraStore
from shards.stores.cassandra.connection import opener
from shards.stores.cassandra.session import Session
from tests.support.addresses import loopback
from tests.support.cassandra_node import DRIVERS, make_empty, session_to, small_spec
from tests.support.proxy import Proxy
from tests.support.rows import new_row
from tests.support.waiting import until

ADDRESS: Final = loopback(41)
OTHER_ADDRESS: Final = loopback(42)
CQL_PORT: Final = 20_946
BOOT_S: Final = 200.0
FIRST_USER: Final = Credentials("cassandra", "cassandra")
"""Whom a new cluster knows."""

WORKER: Final = Credentials("crest", "not a 'secret'")

pytestmark = pytest.mark.timeout(600)


class Papers(NamedTuple):
    """Files in PEM."""

    node: Path
    """The node's private key and certificate."""
    tls: Tls
    """What a client needs."""
    strangers_ca: Path
    """Another authority."""


class GuardedNode(CassandraNode):
    """A node that lets in nobody without a certificate and a password."""

    def __init__(self, directory: Path, papers: Papers) -> None:
        spec = small_spec(ADDRESS, CQL_PORT)
        super().__init__(
            spec,
            spec.cassandra[0],
            directory,
            class_path=lambda: (jars.java(), jars.ensure(jars.default_directory())),
            dies_with_parent=True,
        )
        self._papers = papers

    def _prepare(self) -> Sequence[str]:
        command = super()._prepare()
        config = self.directory / "cassandra.yaml"
        guarded = {
            "authenticator": "PasswordAuthenticator",
            "authorizer": "CassandraAuthorizer",
            "client_encryption_options": {
                "enabled": True,
                "optional": False,
                "require_client_auth": True,
                "ssl_context_factory": {"class_name": "org.apache.cassandra.security.PEMBasedSslContextFactory"},
                "keystore": str(self._papers.node),
                "truststore": self._papers.tls.ca_file,
            },
        }
        config.write_text(json.dumps(json.loads(config.read_text()) | guarded))
        return command

    def probe(self) -> str | None:
        """Whether it shakes hands."""
        tls = self._papers.tls
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
        try:
            with (
                socket.create_connection((ADDRESS, CQL_PORT), PROBE_TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=ADDRESS),
            ):
                return None
        except OSError as error:
            return str(error)


def papers_in(folder: Path) -> Papers:
    """Certificates of a passing authority: the node's for its address, the worker's for its name."""
    authority = trustme.CA()
    node, worker = authority.issue_cert(ADDRESS), authority.issue_cert("crest.test")
    ca_file, cert_file, key_file = (folder / name for name in ("ca.pem", "worker.pem", "worker-key.pem"))
    authority.cert_pem.write_to_path(str(ca_file))
    worker.cert_chain_pems[0].write_to_path(str(cert_file))
    worker.private_key_pem.write_to_path(str(key_file))
    # Cassandra reads private keys as PKCS 8 only
    key = serialization.load_pem_private_key(node.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    node_file = folder / "node.pem"
    node_file.write_bytes(key + b"".join(pem.bytes() for pem in node.cert_chain_pems))
    strangers_ca = folder / "strangers-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(strangers_ca))
    return Papers(node_file, Tls(str(ca_file), str(cert_file), str(key_file)), strangers_ca)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """The papers of this module's node."""
    return papers_in(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def node(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedNode]:
    """The node, serving."""
    node = GuardedNode(tmp_path_factory.mktemp("guarded"), papers)
    try:
        node.start()
        node.wait_ready(BOOT_S)
    except MissingError as error:
        pytest.skip(f"no Cassandra: {error}")
    yield node
    node.kill()


@pytest_asyncio.fixture(params=DRIVERS)
async def settings(
    request: pytest.FixtureRequest, node: GuardedNode, papers: Papers
) -> AsyncIterator[CassandraSettings]:
    """An empty keyspace, and a worker that may read and write it and nothing else."""
    assert node.alive
    own = CassandraSettings(
        (ADDRESS,),
        port=CQL_PORT,
        keyspace="crest_guarded",
        replication={"datacenter1": 1},
        driver=request.param,
        credentials=WORKER,
        tls=papers.tls,
    )
    operators = dataclasses.replace(own, credentials=FIRST_USER)
    session = await session_to(operators, BOOT_S)  # the first user is made after the node has started
    try:
        await make_empty(operators)
        password = WORKER.password.replace("'", "''")
        await session.run(f"CREATE ROLE IF NOT EXISTS crest WITH PASSWORD = '{password}' AND LOGIN = true")
        await session.run("GRANT SELECT ON KEYSPACE crest_guarded TO crest")
        await session.run("GRANT MODIFY ON KEYSPACE crest_guarded TO crest")
    finally:
        await session.close()
    yield own


async def test_a_worker_with_papers_and_password_serves(
    settings: CassandraSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Over TLS, with a certificate and a password, orders are written and read; what it may not see it warns about."""
    store = await CassandraStore.open(settings, is_indexing=False)
    row = new_row()
    assert await store.commit([row]) == [APPLIED]
    for consistency in Consistency:
        assert await store.read([row.key], consistency) == [row]
    await store.close()
    told = [record.getMessage() for record in caplog.records if record.name == "crest.cassandra"]
    assert any("GRANT SELECT ON system_views.settings" in line for line in told), told


@pytest.mark.parametrize("lack", ["password", "user", "tls", "certificate", "authority", "pem"])
async def test_a_worker_that_lacks_something_is_not_let_in(
    lack: str, settings: CassandraSettings, papers: Papers
) -> None:
    """Wrong or no credentials, no encryption, no certificate, no key, a node of another authority: nothing is sent."""
    tls = papers.tls
    changed: dict[str, dict[str, object]] = {
        "password": {"credentials": Credentials("crest", "guessed")},
        "user": {"credentials": None},
        "tls": {"tls": None},
        "certificate": {"tls": Tls(tls.ca_file)},
        "pem": {"tls": dataclasses.replace(tls, key_file=__file__)},
        "authority": {"tls": dataclasses.replace(tls, ca_file=str(papers.strangers_ca))},
    }
    wrong = dataclasses.replace(settings, **changed[lack])  # type: ignore[arg-type]  # as the keys say
    with pytest.raises(Unavailable, match=ADDRESS):
        await opener(wrong)(wrong)


async def test_a_node_must_have_a_certificate_for_its_address(settings: CassandraSettings, papers: Papers) -> None:
    """A node reached under an address that its certificate does not name is refused, unless that is waived."""
    async with Proxy(OTHER_ADDRESS, CQL_PORT, (ADDRESS, CQL_PORT)):
        moved = dataclasses.replace(settings, contact_points=(OTHER_ADDRESS,))
        with pytest.raises(Unavailable, match=OTHER_ADDRESS):
            await opener(moved)(moved)
        waived = dataclasses.replace(moved, tls=dataclasses.replace(papers.tls, verify_host=False))
        session = await until(lambda: let_in(waived), lambda session: session is not None)
        assert session is not None
        await session.close()


async def let_in(settings: CassandraSettings) -> Session | None:
    """A session of the driver that the settings name; None when a try took too long."""
    try:
        return await opener(settings)(settings)
    except Unavailable:
        return None
