"""This module reads and writes the wire format of protocol buffers: numbered fields with an integer or bytes each.

An ONNX file is one message of this format. It is read as views of one buffer, without copies, and fields are written
back with the same bytes. Reading takes no memory beside the file, and needs no library for ONNX.

Source: "Encoding" in the documentation of protocol buffers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

Value = int | memoryview
"""The value of a field: int for a varint; a view for 4 or 8 bytes, and for a text, bytes or an inner message."""
Pieces = list[bytes | memoryview]
"""Parts of a message that are written one after the other. They stay views until `join` copies them."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: Value
    whole: memoryview
    """All bytes of the field, with its number."""


_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
"""Wire types: how the value of a field is stored."""
_MOST_NUMBER = 2**29 - 1
"""The largest number of a field that the format allows."""
_MOST_VARINT_BYTES = 10
"""The most bytes of a varint: it has 64 bits, of which each byte stores seven."""


class WireError(ValueError):
    """The bytes are not a message, or end before the message does."""


def read_fields(message: memoryview) -> Iterator[Field]:
    """Yield all fields of a message in their order. Raises WireError where the bytes are not a message."""
    at, end = 0, len(message)
    while at < end:
        start = at
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if not 0 < number <= _MOST_NUMBER:
            # Other readers cut a larger number to 32 bits, and would take an unknown field for a known one.
            raise WireError(f"a field has the number {number}")
        value: Value
        if kind == _VARINT:
            value, at = _read_varint(message, at)
        elif kind in (_LENGTH, _EIGHT_BYTES, _FOUR_BYTES):
            n_bytes = 8 if kind == _EIGHT_BYTES else 4
            if kind == _LENGTH:
                n_bytes, at = _read_varint(message, at)
            if n_bytes > end - at:
                raise WireError("the file ends within a field")
            value = message[at : at + n_bytes]
            at += n_bytes
        else:
            raise WireError(f"a field has the unknown wire type {kind}")
        yield Field(number, value, message[start:at])


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at byte `at`, and the byte after its end."""
    number = 0
    for n_read in range(_MOST_VARINT_BYTES):
        if at >= len(message):
            raise WireError("the file ends within a number")
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << 7 * n_read
        if byte < 0x80:
            return number, at
    raise WireError("a number has more than 64 bits")


def as_view(value: Value) -> memoryview:
    """Return the value of a field that holds bytes. Raises WireError for a number."""
    if isinstance(value, int):
        raise WireError("a number stands where bytes belong")
    return value


def as_number(value: Value) -> int:
    """Return the value of a field that holds a number, signed. Raises WireError for bytes."""
    if not isinstance(value, int):
        raise WireError("bytes stand where a number belongs")
    number = value & (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number


def as_text(value: Value) -> str:
    """Return the value of a field that holds a text. Raises WireError where it is not UTF-8."""
    try:
        return str(as_view(value), "utf-8")
    except UnicodeDecodeError as error:
        raise WireError("a name is not UTF-8") from error


def as_enum(value: Value) -> int:
    """Return the value of a field that holds an enum or an int32, of which every reader takes the lowest 32 bits.

    Raises WireError for bytes.
    """
    number = as_number(value) & (1 << 32) - 1
    return number - (1 << 32) if number >> 31 else number


def read_numbers(value: Value) -> Iterator[int]:
    """Yield the numbers of one occurrence of a repeated field: one number, or several that are packed into bytes."""
    if isinstance(value, int):
        yield as_number(value)
        return
    at = 0
    while at < len(value):
        number, at = _read_varint(value, at)
        yield as_number(number)


def bytes_field(number: int, value: bytes | memoryview) -> Pieces:
    """Return the pieces of a field that holds bytes or a text."""
    return [_varint(number << 3 | _LENGTH) + _varint(len(value)), value]


def message_field(number: int, pieces: Pieces) -> Pieces:
    """Return the pieces of a field that holds a message, of which `pieces` are the fields."""
    return [_varint(number << 3 | _LENGTH) + _varint(sum(len(piece) for piece in pieces)), *pieces]


def join(pieces: Iterable[bytes | memoryview]) -> bytes:
    """Return all pieces as one buffer."""
    return b"".join(cast("Iterable[bytes]", pieces))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
