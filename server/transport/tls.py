"""Certificates of the server, read again when their files change."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import grpc

_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]

_log: Final = logging.getLogger("crest.tls")


class TlsError(Exception):
    """The files cannot be used; the text is one line for the operator."""


class TlsFiles(NamedTuple):
    """Where the certificates are, all PEM."""

    cert: Path
    """The server's chain, its own certificate first."""
    key: Path
    client_ca: Path | None = None
    """Who must have signed a caller's certificate; None: callers need none."""


class Certificates:
    """The certificates of one worker. Raises ``TlsError`` when they cannot be used at first.

    Every new connection looks whether a file has changed (three ``stat``). Files that do not fit together, as in the
    middle of a rotation, are left alone: connections go on with those before, and the next one looks again.
    ``observe`` is told ``loaded`` or ``broken`` for each change, by a thread of gRPC's.
    """

    def __init__(self, files: TlsFiles, observe: Callable[[str], None] = lambda _result: None) -> None:
        self._files = files
        self._observe = observe
        self._lock = threading.Lock()
        self._seen = _stamp(files)
        self._current = read(files)

    def __repr__(self) -> str:
        return f"Certificates({self._files.cert}, callers {'need one' if self._files.client_ca else 'need none'})"

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of one listening server, which follow the files."""
        fetched: list[grpc.ServerCertificateConfiguration] = [self._current]

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            current = self.current()
            if current is fetched[0]:
                return None  # as the connection before
            fetched[0] = current
            return current

        return grpc.dynamic_ssl_server_credentials(
            self._current,
            fetch,  # type: ignore[arg-type]  # None is documented and means: as before
            require_client_authentication=self._files.client_ca is not None,
        )

    def current(self) -> grpc.ServerCertificateConfiguration:
        """Returns what the files hold now, or held when they were last whole. Safe in any thread; never raises."""
        with self._lock:
            stamp = _stamp(self._files)
            if stamp == self._seen:
                return self._current
            self._seen = stamp  # so that what is broken is told once, not by every connection
            try:
                self._current = read(self._files)
            except TlsError as error:
                self._observe("broken")
                _log.error("keeping the certificates as they were: %s", error)
            else:
                self._observe("loaded")
                _log.info("certificates loaded", extra={"cert": str(self._files.cert)})
            return self._current


def read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """Returns what the files hold, checked to fit together. Raises ``TlsError``."""
    before = _stamp(files)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain, key = files.cert.read_bytes(), files.key.read_bytes()
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")  # else an encrypted key asks the terminal
    except (OSError, ValueError) as error:  # what ssl raises is one of these
        raise TlsError(f"tls_cert = {files.cert}, tls_key = {files.key}: {_why(error)}") from error
    authority: bytes | None = None
    if files.client_ca is not None:
        try:
            authority = files.client_ca.read_bytes()
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise TlsError(f"tls_client_ca = {files.client_ca}: {_why(error)}") from error
    if _stamp(files) != before:
        raise TlsError(f"{files.cert} and its companions change at this moment")
    return grpc.ssl_server_certificate_configuration([(key, chain)], authority)


def _stamp(files: TlsFiles) -> _Stamp:
    """Returns what tells one state of the files from another; of a missing one there is no more than that."""
    stamps: list[tuple[int, int, int]] = []
    for path in files:
        if path is not None:
            try:
                state = path.stat()
            except OSError:
                stamps.append((0, 0, 0))
            else:
                stamps.append((state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(stamps)


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").lower().replace("_", " ")
        known = {"key values mismatch": "the key is not that of the certificate"}
        return known.get(reason, f"no usable PEM ({reason or 'unreadable'})")
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
