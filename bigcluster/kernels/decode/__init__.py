"""Decoding: the bytes of an image file become uint8 pixels of one fixed size, or a status that says why they cannot.

No other package decodes images. It imports `units` and the image libraries. Begin with codecs.py, then header.py (what
a file says of itself, before it is decoded).
"""

from bigcluster.kernels.decode.codecs import decode, prepare_codecs
from bigcluster.kernels.decode.extras import needs_extra
from bigcluster.kernels.decode.header import read_header
from bigcluster.kernels.decode.limits import Look, look
from bigcluster.kernels.decode.messages import FILLED, damage_in, may_mean_damage, without_what_was_filled
from bigcluster.kernels.decode.plain import is_plain, may_lie
from bigcluster.kernels.decode.result import STATUSES, Decoded, DecodeSpec

__all__ = [
    "FILLED",
    "STATUSES",
    "DecodeSpec",
    "Decoded",
    "Look",
    "damage_in",
    "decode",
    "is_plain",
    "look",
    "may_lie",
    "may_mean_damage",
    "needs_extra",
    "prepare_codecs",
    "read_header",
    "without_what_was_filled",
]
