"""Tells from what codecs print whether a picture is damaged, or only something beside it.

libjpeg, libpng and libtiff decode on after many a fault and only say so, on fd 2. These are the texts of their sources
(jerror.h, pngerror.c, tif_*.c); a word in angle brackets stands for a number or a name:

    Corrupt JPEG data: <what>             the entropy-coded data is broken from here on
    Inconsistent progression sequence     a scan of a progressive file is lost or out of place
    Premature end of JPEG file            the end marker may be all that is missing: Pillow's opinion counts
    libpng error: IDAT: <what>            pixel data does not fit its checksum; of other errors Pillow's opinion counts
    <codec>Decode: <what>                 libtiff; harmless remarks have "Warning," after the colon
    JPEGLib: <what>                       libjpeg within libtiff

Everything else (colour profiles, unknown tags, odd version numbers) leaves the picture as it is.
"""

from __future__ import annotations

import io
import re

from bigcluster.kernels.decode.jpeg import parse_jpeg, without_filling
from bigcluster.kernels.decode.result import RejectedError

_DAMAGE = re.compile(
    r"Corrupt JPEG data: .+"
    r"|Inconsistent progression sequence.*"
    r"|libpng (?:error|warning): (?:IDAT: (?!Too much|Extra).+|bad adaptive filter value|Not enough image data)"
    r"|Fax\w+: .+"  # here a remark on a line means that the line is not as it was drawn
    r"|\w*(?:Decode|Setup|FillStrip|FillTile|PreDecode)\w*: (?!Warning,).+"
    r"|JPEGLib: (?!Warning,).+"
    r"|\S+: Using code not yet in table\."
)
_TRAILING = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_FILLING = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd[0-7]")
FILLED = "filling stands before its restart markers; the picture is whole"
_END_OF_IMAGE = b"\xff\xd9"
_MOST_SHOWN = 200
"""Characters of a line that are quoted."""


def may_mean_damage(output: str) -> bool:
    """Whether the output of several codecs may speak of damage; their lines may be mixed with each other."""
    return _DAMAGE.search(output) is not None


def damage_in(output: str, data: bytes) -> str:
    """The first line of a codec's output on the file `data` that means damage, printable; '' where none does."""
    for line in output.splitlines():
        text = "".join(c for c in " ".join(line.split()) if c.isprintable())
        if _DAMAGE.fullmatch(text) and not _is_padding(text, data):
            return text[:_MOST_SHOWN]
    return ""


def without_what_was_filled(damage: str, data: bytes) -> list[bytes]:
    """Files without the filling bytes of `data`, the likelier one first; none where `damage` says more than filling.

    libjpeg reports only the first fault of a file, so what it says about these files decides whether there are others.
    """
    if _FILLING.fullmatch(damage) is None:
        return []
    try:
        return without_filling(data, parse_jpeg(io.BytesIO(data)))
    except RejectedError:
        return []


def _is_padding(line: str, data: bytes) -> bool:
    """Whether a line speaks of zeros or ones before the end marker, which some cameras write: no pixel is lost."""
    found = _TRAILING.fullmatch(line)
    if found is None:
        return False
    end = data.rfind(_END_OF_IMAGE)
    filling = data[max(0, end - int(found[1])) : max(0, end)]
    return set(filling) in ({0x00}, {0xFF})
