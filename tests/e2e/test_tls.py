"""TLS and mTLS on the real server: who is let in, and certificates that change while calls go on."""

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import trustme

from clients import OrderClient, OrderLine, RetryPolicy, Tls, Unavailable
from tests.support.addresses import loopback
from tests.support.crest import Crest
from tests.support.server_process import ROOT
from tests.support.waiting import until

HOST = loopback(46)
PORT = 20500
SEED = f"{HOST}:{PORT}"
LINES = [OrderLine("sku-1", 2, 1999)]
ONCE = RetryPolicy(attempts_max=1)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Files:
    """An authority, and the files of a server and a caller that it signed."""

    authority: trustme.CA
    folder: Path

    def path(self, name: str) -> Path:
        """Where a file is: ca, server.cert, server.key, caller.cert, caller.key."""
        return self.folder / f"{name}.pem"

    def issue(self, name: str, *, identity: str = HOST) -> None:
        """Puts a new certificate and its key in place, each file at one go, one after the other."""
        issued = self.authority.issue_cert(identity)
        self.put(f"{name}.cert", b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.put(f"{name}.key", issued.private_key_pem.bytes())

    def put(self, name: str, content: bytes) -> None:
        """Replaces one file."""
        partial = self.folder / "partial"
        partial.write_bytes(content)
        partial.replace(self.path(name))

    @property
    def caller(self) -> Tls:
        """What a caller is given."""
        return Tls(self.path("ca"), self.path("caller.cert"), self.path("caller.key"))


def make_files(folder: Path) -> Files:
    """Makes an authority and all files."""
    files = Files(trustme.CA(), folder)
    files.put("ca", files.authority.cert_pem.bytes())
    files.issue("server")
    files.issue("caller", identity="checkout.example")
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of the server below."""
    return make_files(tmp_path_factory.mktemp("tls"))


def flags(files: Files) -> list[str]:
    """What the server is told."""
    given = {"tls-cert": "server.cert", "tls-key": "server.key", "tls-client-ca": "ca"}
    return [f"--{name}={files.path(file)}" for name, file in given.items()]


@pytest.fixture(scope="module")
def server(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crest]:
    """A server of two workers that asks callers for certificates, on the transport that `auto` takes then."""
    with Crest(HOST, PORT, tmp_path_factory.mktemp("crest") / "data", "--workers", "2", *flags(files)) as server:
        server.wait_serving()
        yield server


def served_certificate(files: Files, port: int) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=files.path("ca"))
    context.load_cert_chain(files.path("caller.cert"), files.path("caller.key"))
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((HOST, port)) as plain, context.wrap_socket(plain, server_hostname=HOST) as secure:
        return secure.getpeercert(binary_form=True) or b""


async def test_callers_with_a_certificate_are_served(server: Crest, files: Files) -> None:
    """A caller of the authority creates and reads orders over the workers' own ports, from the shared one on."""
    async with OrderClient(SEED, tls=files.caller) as client:
        order = (await client.create("zoe", "EUR", LINES)).order
        assert await client.get(order.order_id) == order
        workers = {f"{HOST}:{PORT + 1 + number}" for number in range(2)}
        await until(_soon(lambda: set(client.addresses)), lambda found: found == workers)
    assert server.pid


@pytest.mark.parametrize("case", ["plain", "nobody", "stranger", "mistrusts"])
async def test_all_others_are_refused(server: Crest, files: Files, tmp_path: Path, case: str) -> None:
    """Plain text, no certificate, one of another authority: none is served; and a caller refuses a false server."""
    other = make_files(tmp_path)
    tls = {
        "plain": None,
        "nobody": Tls(files.path("ca")),
        "stranger": Tls(files.path("ca"), other.path("caller.cert"), other.path("caller.key")),
        "mistrusts": Tls(other.path("ca"), files.path("caller.cert"), files.path("caller.key")),
    }[case]
    async with OrderClient(f"{HOST}:{PORT + 1}", tls=tls, policy=ONCE, discover=False) as client:
        with pytest.raises(Unavailable):
            await client.get("0190b0a2-7c31-7d3f-8a55-2f1e9c6b7d10")
    assert server.pid


def count(server: Crest, result: str) -> float:
    """How many changes of the files had this result, as the exporter tells."""
    name = f'crest_tls_changes_total{{result="{result}"}}'
    lines = [line for line in server.get("/metrics").splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_certificates_rotate_under_load(server: Crest, files: Files) -> None:
    """New certificates of either side are used, a broken one passed over, logged and counted, and no call fails."""
    stopping = asyncio.Event()
    made = 0

    async def load(client: OrderClient) -> None:
        nonlocal made
        while not stopping.is_set():
            await client.create("load", "EUR", LINES)
            made += 1

    async def certificate() -> bytes:
        made_then = made
        await until(_soon(lambda: made), lambda now: now > made_then)  # calls go on meanwhile
        return await asyncio.to_thread(served_certificate, files, PORT + 1)

    async with OrderClient(SEED, tls=files.caller, policy=ONCE) as client:
        calls = [asyncio.create_task(load(client)) for _ in range(4)]
        try:
            first = await certificate()
            link = client._fleet._link
            files.issue("caller", identity="checkout.example")
            await until(_soon(lambda: client._fleet._link), lambda present: present is not link)
            files.issue("server")
            second = await until(certificate, lambda shown: shown != first)
            whole = files.path("server.key").read_bytes()
            files.put("server.key", b"no key")
            assert await certificate() == second
            await until(_soon(lambda: server.logged_about("keeping the certificates")), bool)
            await until(_soon(lambda: count(server, "broken")), lambda number: number >= 1)
            caller_key = files.path("caller.key").read_bytes()
            link = client._fleet._link
            files.put("caller.key", b"no key")
            files.put("server.key", whole)
            files.issue("server")
            files.put("caller.key", caller_key)
            third = await until(certificate, lambda shown: shown not in {first, second})
            await until(_soon(lambda: count(server, "loaded")), lambda number: number >= 2)
            assert third
        finally:
            stopping.set()
            await asyncio.gather(*calls)
    assert made > 10


def _soon(look: Callable[[], _T]) -> Callable[[], Awaitable[_T]]:
    return lambda: asyncio.to_thread(look)


def test_a_start_that_cannot_serve_tls_says_why(files: Files, tmp_path: Path) -> None:
    """A missing file, a key of another certificate, half a pair, and the native transport: one line, code 2."""
    other = make_files(tmp_path)
    good: dict[str, object] = {"tls-cert": files.path("server.cert"), "tls-key": files.path("server.key")}
    cases: dict[str, dict[str, object]] = {
        "No such file": good | {"tls-cert": tmp_path / "none.pem"},
        "the key is not that of the certificate": good | {"tls-key": other.path("server.key")},
        "no usable PEM": good | {"tls-client-ca": ROOT / "README.md"},
        "go together": {"tls-cert": files.path("server.cert")},
        "serves no TLS": good | {"transport": "native"},
    }
    for text, given in cases.items():
        command = [sys.executable, "-m", "server", "--data-dir", str(tmp_path / "data")]
        command += [f"--{name}={value}" for name, value in given.items()]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2, text
        (line,) = ended.stderr.strip().splitlines()
        assert line.startswith("error: "), line
        assert text in line


def test_the_command_line_speaks_tls(server: Crest, files: Files) -> None:
    """The three options, or their variables, are enough; a file that cannot be used is a wrong command line."""
    command = [sys.executable, "-m", "clients", "topology", "--json", "--endpoint", SEED]
    options = [f"--tls-ca={files.path('ca')}"]
    options += [f"--tls-cert={files.path('caller.cert')}", f"--tls-key={files.path('caller.key')}"]
    good = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert good.returncode == 0, good.stderr
    names = {"CREST_CLIENT_TLS_CA": "ca", "CREST_CLIENT_TLS_CERT": "caller.cert", "CREST_CLIENT_TLS_KEY": "caller.key"}
    environ = os.environ | {name: str(files.path(file)) for name, file in names.items()}
    same = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=environ)
    assert same.returncode == 0, same.stderr
    bad = subprocess.run(
        [*command, "--tls-ca=none.pem"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert bad.returncode == 2
    assert "none.pem: No such file" in bad.stderr
    assert server.pid


def test_half_a_pair_is_refused() -> None:
    """A certificate without its key is a mistake that is told at once."""
    with pytest.raises(ValueError, match="go together"):
        Tls(cert="mine.pem")
