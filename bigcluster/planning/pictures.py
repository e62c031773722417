"""What the listed files are like, as far as a plan needs to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pictures:
    """From the headers of some of the files; means are per listed file."""

    looked_at: int
    """0: nothing was, they are assumed."""
    working_bytes: tuple[int, ...]
    """What decoding each of them takes, without repetitions, ascending."""
    file_bytes: float
    jpeg_pixels: float
    """Decoded at full scale."""
    reduced_pixels: float
    """Pixels in the file of a JPEG that is decoded at a reduced scale."""
    other_pixels: float
    isolated: bool = False
    """Whether some of them decode in a child: their headers may lie about what they take."""

    @property
    def largest_bytes(self) -> int:
        """The most that one decode of them takes."""
        return self.working_bytes[-1]

    def largest_within(self, limit_bytes: int) -> int:
        """The most that one decode takes of those that a limit lets pass; the others become too_large."""
        return max((n_bytes for n_bytes in self.working_bytes if n_bytes <= limit_bytes), default=0)


def assumed(width: int, height: int) -> Pictures:
    """Baseline JPEGs of the target size or of a catalog cut, 300 x 430, whichever is larger."""
    n_pixels = max(width * height, 300 * 430)
    return Pictures(0, (8 * n_pixels,), 0.36 * n_pixels, n_pixels, 0, 0)
