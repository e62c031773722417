"""Image bytes -> uint8 pixels of one fixed size, or a status that says why not.

The only package that reads pictures.
"""

from bigcluster.kernels.decode.codecs import (
    STATUSES,
    Decoded,
    DecodeSpec,
    decode,
    decode_working_bytes,
    prepare_codecs,
    read_header,
)

__all__ = [
    "STATUSES",
    "DecodeSpec",
    "Decoded",
    "decode",
    "decode_working_bytes",
    "prepare_codecs",
    "read_header",
]
