"""A synthetic catalog with known styles: something to cluster before one's own pictures are at hand."""

from bigcluster.demo.catalog import generate
from bigcluster.demo.styles import STYLES, draw_cut
from bigcluster.demo.tones import HEIGHT, WIDTH

__all__ = ["HEIGHT", "STYLES", "WIDTH", "draw_cut", "generate"]
