"""A synthetic catalog of pictures with known styles, for trials, tests and benchmarks.

It imports `config`, `files` and `runtime`; only the command line imports it. Begin with catalog.py, then styles.py
(what is drawn).
"""

from bigcluster.demo.catalog import generate
from bigcluster.demo.styles import STYLES, draw_cut
from bigcluster.demo.tones import HEIGHT, WIDTH

__all__ = ["HEIGHT", "STYLES", "WIDTH", "draw_cut", "generate"]
