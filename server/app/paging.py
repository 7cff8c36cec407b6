"""Page tokens: where a list goes on, and for which list.

25 bytes and a checksum as unpadded base64url: format 1, 8 bytes of hash over customer and filter, the last order id of
the page, 4 bytes of checksum. Nothing in it is secret; the hash and the checksum catch mistakes, not attackers, and a
forged token shows a caller nothing but the list that it could have asked for anyway.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b
from typing import Final

from server.domain.errors import OrderError, Reason
from server.domain.states import State

_FORMAT: Final = b"\x01"
_TOKEN_BYTES: Final = 1 + 8 + 16 + 4


def encode_token(customer_id: str, state: State | None, last: bytes) -> str:
    """Returns the token of the page after the order ``last`` (16 bytes) of this customer under this filter."""
    payload = _FORMAT + _scope(customer_id, state) + last
    return base64.urlsafe_b64encode(payload + _checksum(payload)).decode().rstrip("=")


def decode_token(customer_id: str, state: State | None, token: str) -> bytes:
    """Returns the order id that a token goes on after; raises PAGE_TOKEN_INVALID ``OrderError``."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    payload, checksum = raw[:-4], raw[-4:]
    if len(raw) != _TOKEN_BYTES or not raw.startswith(_FORMAT) or _checksum(payload) != checksum:
        raise OrderError(Reason.PAGE_TOKEN_INVALID, "the page token is damaged: start from the first page")
    if payload[1:9] != _scope(customer_id, state):
        raise OrderError(
            Reason.PAGE_TOKEN_INVALID,
            "the page token belongs to another customer_id or state: pass those of the page before, or start anew",
        )
    return payload[9:]


def _scope(customer_id: str, state: State | None) -> bytes:
    scope = f"{0 if state is None else state.value}:{customer_id}".encode()
    return blake2b(scope, digest_size=8, person=b"crest.pagescope").digest()


def _checksum(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=4, person=b"crest.pagesum").digest()
