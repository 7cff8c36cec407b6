"""What workers say to each other about rows, as bytes. Pure.

A frame is a head (length of the body, version, kind) and a body. ``ROWS`` and ``ANSWERS`` hold one record after the
other; the other kinds have no body. Both ends are processes of one machine, so a deadline is sent as it is.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from shards.contract import (
    APPLIED,
    SEALED,
    Corrupt,
    DeadlineExceeded,
    Invalid,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    StoreError,
    Unavailable,
    Verdict,
)
from shards.keys import key_of

FRAME_BYTES_MAX: Final = 1 << 20
"""Of the body of one frame; a larger one closes the connection."""

_VERSION: Final = 1
_TEXT_BYTES_MAX: Final = 1_000
"""Of the text of an error; what is longer is cut."""

_HEAD: Final = struct.Struct("!IBB")  # length of the body, version, kind
_ROW: Final = struct.Struct("!QIdIHHI16s")  # number, shard, deadline; gen, bytes of customer, marks, body; order id
_ANSWER: Final = struct.Struct("!QB")  # number, code
_PRESENT: Final = struct.Struct("!IHHI16s")  # gen, bytes of customer, marks, body; order id
_TEXT: Final = struct.Struct("!H")  # bytes of the text of an error

_RECORD_BYTES_MAX: Final = FRAME_BYTES_MAX - 1_024
"""Of one record in a frame."""


class Kind(enum.IntEnum):
    """What a frame is."""

    ROWS = 1
    ANSWERS = 2
    PING = 3
    """Answer at once."""
    PONG = 4
    LEAVING = 5
    """Hand over nothing more on this connection; what was handed over is answered."""


class Malformed(Exception):
    """The bytes are none that this version sends."""


class NotTaken(StoreError):
    """The other worker has done nothing about a row, nor will it: whoever handed it over commits it."""


class Handed(NamedTuple):
    """A row on its way to its committer."""

    number: int
    """By which its answer names it; never used again on a connection."""
    shard: int
    row: Row
    deadline: float
    """Absolute ``time.monotonic`` seconds, which are the same in all processes of a machine."""


class _Code(enum.IntEnum):
    APPLIED = 0
    SEALED = 1
    CLASH = 2
    CLASH_WITH = 3
    """A clash with the row that follows."""
    NOT_TAKEN = 16
    UNAVAILABLE = 17
    OVERLOADED = 18
    INVALID = 19
    DEADLINE_EXCEEDED = 20
    OUTCOME_UNKNOWN = 21
    CORRUPT = 22
    FAILED = 23
    """Any other failure, which leaves the outcome unknown."""


_ERRORS: Final[dict[_Code, type[StoreError]]] = {
    _Code.NOT_TAKEN: NotTaken,
    _Code.UNAVAILABLE: Unavailable,
    _Code.OVERLOADED: Overloaded,
    _Code.INVALID: Invalid,
    _Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    _Code.OUTCOME_UNKNOWN: OutcomeUnknown,
    _Code.CORRUPT: Corrupt,
    _Code.FAILED: StoreError,
}

_CLASH: Final = Outcome(Verdict.CLASH)


def frame(kind: Kind, body: bytes = b"") -> bytes:
    """Returns a frame; ``body`` has at most ``FRAME_BYTES_MAX`` bytes."""
    return _HEAD.pack(len(body), _VERSION, kind) + body


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """Returns kind and body of every frame that ``data`` completes. Raises ``Malformed``."""
        if self._unread:
            data = self._unread + data
        found: list[tuple[Kind, bytes]] = []
        at = 0
        while len(data) - at >= _HEAD.size:
            length, version, kind = _HEAD.unpack_from(data, at)
            if version != _VERSION or length > FRAME_BYTES_MAX:
                raise Malformed(f"a frame of version {version} and {length} bytes")
            body_at = at + _HEAD.size
            if len(data) - body_at < length:
                break
            try:
                found.append((Kind(kind), data[body_at : body_at + length]))
            except ValueError:
                raise Malformed(f"a frame of kind {kind}") from None
            at = body_at + length
        self._unread = data[at:]
        return found


def pack_row(handed: Handed) -> bytes | None:
    """Returns the record of a row; None for one that does not fit a frame."""
    number, shard, (key, customer, marks, body), deadline = handed
    name = customer.encode()
    try:
        head = _ROW.pack(number, shard, deadline, key.gen, len(name), len(marks), len(body), key.order_id)
    except struct.error:  # a length, or the shard's number, has no room
        return None
    record = head + name + marks + body
    return record if len(record) <= _RECORD_BYTES_MAX else None


def unpack_rows(body: bytes) -> Iterator[Handed]:
    """Yields the rows of a frame. Raises ``Malformed``."""
    at = 0
    while at < len(body):
        try:
            number, shard, deadline, gen, name, marks, kept, order_id = _ROW.unpack_from(body, at)
        except struct.error as error:
            raise Malformed(f"a row: {error}") from error
        row, at = _row(body, at + _ROW.size, gen, order_id, name, marks, kept)
        yield Handed(number, shard, row, deadline)


def pack_answer(number: int, answer: Outcome | BaseException) -> bytes:
    """Returns the record of what became of a row: an outcome, never DEFERRED, or an error."""
    if not isinstance(answer, Outcome):
        text = str(answer).encode(errors="replace")[:_TEXT_BYTES_MAX]
        return _ANSWER.pack(number, _code_of(answer)) + _TEXT.pack(len(text)) + text
    if answer.verdict is Verdict.APPLIED:
        return _ANSWER.pack(number, _Code.APPLIED)
    if answer.verdict is Verdict.SEALED:
        return _ANSWER.pack(number, _Code.SEALED)
    assert answer.verdict is Verdict.CLASH, "lanes answer nothing else"
    present = answer.present
    if present is None:
        return _ANSWER.pack(number, _Code.CLASH)
    key, customer, marks, body = present
    name = customer.encode()
    try:
        head = _PRESENT.pack(key.gen, len(name), len(marks), len(body), key.order_id)
    except struct.error:
        head = b""
    record = _ANSWER.pack(number, _Code.CLASH_WITH) + head + name + marks + body
    if not head or len(record) > _RECORD_BYTES_MAX:  # nothing was written, so whoever asked may find out by itself
        return pack_answer(number, NotTaken("what is there is too large to be sent"))
    return record


def unpack_answers(body: bytes) -> Iterator[tuple[int, Outcome | StoreError]]:
    """Yields the number of each row of a frame and what became of it. Raises ``Malformed``."""
    at = 0
    while at < len(body):
        try:
            number, code = _ANSWER.unpack_from(body, at)
            at += _ANSWER.size
            if code == _Code.APPLIED:
                yield number, APPLIED
            elif code == _Code.SEALED:
                yield number, SEALED
            elif code == _Code.CLASH:
                yield number, _CLASH
            elif code == _Code.CLASH_WITH:
                gen, name, marks, kept, order_id = _PRESENT.unpack_from(body, at)
                row, at = _row(body, at + _PRESENT.size, gen, order_id, name, marks, kept)
                yield number, Outcome(Verdict.CLASH, row)
            else:
                error = _ERRORS[_Code(code)]
                (length,) = _TEXT.unpack_from(body, at)
                at += _TEXT.size
                text = body[at : at + length]
                if len(text) != length:
                    raise Malformed("a text that ends too early")
                at += length
                yield number, error(text.decode(errors="replace"))
        except (struct.error, ValueError) as error:
            raise Malformed(f"an answer: {error}") from error


def _row(data: bytes, at: int, gen: int, order_id: bytes, name: int, marks: int, body: int) -> tuple[Row, int]:
    """Returns the row whose customer, marks and body, of so many bytes each, begin at ``at``, and where they end."""
    marks_at = at + name
    body_at = marks_at + marks
    end = body_at + body
    if end > len(data):
        raise Malformed("a row that ends too early")
    try:
        customer = data[at:marks_at].decode()
    except UnicodeDecodeError as error:
        raise Malformed("a customer that is no text") from error
    return Row(key_of(order_id, gen), customer, data[marks_at:body_at], data[body_at:end]), end


def _code_of(error: BaseException) -> _Code:
    for code, family in _ERRORS.items():
        if isinstance(error, family):  # the general one is the last
            return code
    return _Code.FAILED
