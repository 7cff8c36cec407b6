"""TLS to the service: which files, and the credentials that they make at this moment."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust and who we are, as PEM files.

    ``ca`` signs the service's certificates (empty: the public authorities that gRPC ships). ``cert`` and ``key`` are
    our own, for a service that asks for one. When the files change, the client moves to new connections.
    """

    ca: str | Path = ""
    cert: str | Path = ""
    key: str | Path = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("a certificate and its key go together: give both, or neither")

    def stamp(self) -> Stamp:
        """Returns what tells one state of the files from another; never raises."""
        stamps: list[tuple[int, int, int]] = []
        for file in (self.ca, self.cert, self.key):
            try:
                state = Path(file).stat() if file else None
            except OSError:
                state = None
            stamps.append((state.st_mtime_ns, state.st_size, state.st_ino) if state else (0, 0, 0))
        return tuple(stamps)

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns what the files hold now. Raises ValueError, in one line, when they cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        at_fault = self.ca
        try:
            ca, cert, key = (Path(file).read_bytes() if file else None for file in (self.ca, self.cert, self.key))
            if self.ca:
                context.load_verify_locations(self.ca)
            at_fault = f"{self.cert}, {self.key}"
            if self.cert:
                context.load_cert_chain(self.cert, self.key, password=lambda: b"")  # else it asks the terminal
        except ssl.SSLError as error:
            reason = (error.reason or "unreadable").lower().replace("_", " ")
            raise ValueError(f"{at_fault}: no usable PEM ({reason})") from error
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from error
        return grpc.ssl_channel_credentials(ca, key, cert)
