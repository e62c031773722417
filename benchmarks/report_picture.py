"""The picture of a report in README.md: the demo catalog is clustered, and a browser without a window shows it.

python -m benchmarks.report_picture

It needs the program `chromium`. Pillow reduces the picture to few colours, so that the file stays small.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parent / "report.png"
LARGEST_BYTES = 300_000
"""A page with this picture loads at once, and the repository stays small."""
N_IMAGES, N_CLUSTERS, MEMORY = 600, 10, "1GiB"
FOLDER = Path(tempfile.gettempdir(), "catalog")
"""The page shows the path of the images: it must not be a random one."""
WIDTH, HEIGHT = 1020, 760
"""Pixels of the window: wide enough for the line of figures, high enough for a part of the montage."""
N_COLORS = 64
"""Ink, paper and the tones of the pages."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--to", type=Path, default=PICTURE, help="the PNG file to write")
    to = arguments.parse_args().to
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("there is no program named chromium; on Debian and Ubuntu: apt-get install chromium")
    FOLDER.mkdir()
    try:
        take_picture(browser, make_report(FOLDER), FOLDER / "window.png", to)
    finally:
        shutil.rmtree(FOLDER)
    print(f"{to}: {to.stat().st_size:,} bytes")


def make_report(folder: Path) -> Path:
    """Draw the demo catalog, cluster it, and return the first page of its report."""
    cuts, out = folder / "cuts", folder / "out"
    command = [sys.executable, "-m", "bigcluster"]
    subprocess.run([*command, "demo", str(cuts), "--images", str(N_IMAGES), "--quiet"], check=True)
    options = ["-k", str(N_CLUSTERS), "--memory", MEMORY, "--quiet"]
    subprocess.run([*command, "run", str(cuts), "--out", str(out), *options], check=True)
    return out / "report" / "index.html"


def take_picture(browser: str, page: Path, window: Path, to: Path) -> None:
    """Write what a window of WIDTH x HEIGHT pixels shows of a page.

    browser : the program. window : a file for the picture in full colour. Raises SystemExit where the result is larger
    than LARGEST_BYTES.
    """
    # Our own page alone is shown. As root and in containers no sandbox starts; there /dev/shm is small, too.
    options = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"]
    size, target = f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={window}"
    subprocess.run([browser, *options, size, target, page.as_uri()], check=True, capture_output=True)
    with Image.open(window) as picture:
        picture.convert("RGB").quantize(N_COLORS).save(to, optimize=True)
    if to.stat().st_size > LARGEST_BYTES:
        sys.exit(f"{to} has {to.stat().st_size:,} bytes, and {LARGEST_BYTES:,} are the most: use fewer colours")


if __name__ == "__main__":
    main()
