"""Just enough of protobuf's encoding to compare answers as the bytes that came over the wire.

Decoding and encoding again would hide a difference: two encodings of one message are equal once decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_VARINT, _DELIMITED = 0, 2


def fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields number and value of each field, in order: an int for a varint, bytes for anything with a length.

    Raises ``ValueError`` for other wire types (our answers have none on the levels looked at) and for cut bytes.
    """
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        value, at = _varint(raw, at)
        if tag & 7 == _VARINT:
            yield tag >> 3, value
        elif tag & 7 == _DELIMITED and at + value <= len(raw):
            yield tag >> 3, raw[at : at + value]
            at += value
        else:
            raise ValueError(f"field {tag >> 3} of wire type {tag & 7} is cut or unknown")


def repeated(raw: bytes, number: int) -> list[bytes]:
    """Returns every element of the repeated message field ``number``."""
    return [value for found, value in fields(raw) if found == number and isinstance(value, bytes)]


def joined(number: int, messages: Iterable[bytes]) -> bytes:
    """Returns the encoding of a repeated message field ``number`` below 16."""
    tag = bytes((number << 3 | _DELIMITED,))
    return b"".join(tag + _encoded(len(message)) + message for message in messages)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("a varint is cut or too long")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
