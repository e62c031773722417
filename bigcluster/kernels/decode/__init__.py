"""Decoding: the bytes of an image file become uint8 pixels of one fixed size, or a status that says why they cannot.

No other package decodes images. It imports `units` and the image libraries. Begin with codecs.py. The route of a
picture:

1. header.py reads format, size, orientation and depth (`parse_header`), and limits.py refuses what would take too much.
2. codecs.py lets OpenCV decode straight to grey or RGB what it decodes correctly (`Header.direct`).
3. Everything else is decoded to samples, whose depth, white and transparency samples.py turns into 8-bit grey or RGB.
4. resize.py applies the orientation and brings the picture to the target size.
5. result.py has the outcome: pixels, or a status with a reason. messages.py finds damage in what the codecs print.
   webp.py and result.py distinguish a lack of memory from damage.
6. network_input.py makes the input of a neural network from a picture, where a network is used.

| format | its header is read by | its pixels are decoded by |
|---|---|---|
| JPEG | jpeg.py | OpenCV; CMYK by Pillow |
| PNG | png.py | OpenCV; palettes, transparency and animations by Pillow |
| TIFF | tiff.py, which reads its tags by ifd.py | Pillow; more than 8 bits by OpenCV |
| JPEG 2000 | header.py | Pillow; more than 8 bits by OpenCV |
| GIF, WebP, AVIF, BMP | Pillow | Pillow |
| PGM, PPM | Pillow | Pillow; more than 8 bits by OpenCV, or by codecs.py where they are written as text |
| HEIC | Pillow with a plugin (extras.py) | Pillow with that plugin |
| JPEG XL | extras.py | extras.py |
| camera RAW | extras.py, which takes the preview | as the preview, a JPEG or PPM |

bounded_memory.py says which files are decoded in this process: those whose header bounds the memory of their decode.
"""

from bigcluster.kernels.decode.bounded_memory import has_bounded_memory, header_may_lie
from bigcluster.kernels.decode.codecs import decode, prepare_codecs
from bigcluster.kernels.decode.extras import needs_extra
from bigcluster.kernels.decode.header import read_header
from bigcluster.kernels.decode.limits import Workload, read_workload
from bigcluster.kernels.decode.messages import FILLED, damage_in, may_mean_damage, without_what_was_filled
from bigcluster.kernels.decode.network_input import network_input, scaling_tables
from bigcluster.kernels.decode.result import STATUSES, Decoded, DecodeSpec, View

__all__ = [
    "FILLED",
    "STATUSES",
    "DecodeSpec",
    "Decoded",
    "View",
    "Workload",
    "damage_in",
    "decode",
    "has_bounded_memory",
    "header_may_lie",
    "may_mean_damage",
    "needs_extra",
    "network_input",
    "prepare_codecs",
    "read_header",
    "read_workload",
    "scaling_tables",
    "without_what_was_filled",
]
