"""Image bytes -> uint8 pixels of one fixed size, or a status that says why not.

The only package that reads pictures.
"""

from bigcluster.kernels.decode.codecs import (
    STATUSES,
    Decoded,
    DecodeSpec,
    Look,
    decode,
    look,
    prepare_codecs,
    read_header,
)

__all__ = [
    "STATUSES",
    "DecodeSpec",
    "Decoded",
    "Look",
    "decode",
    "look",
    "prepare_codecs",
    "read_header",
]
