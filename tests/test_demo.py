"""The demo catalog: same pictures every time, known styles, and the files of a bad day as declared."""

from __future__ import annotations

import csv
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bigcluster.demo import HEIGHT, STYLES, WIDTH, draw_cut, generate
from bigcluster.demo import catalog as catalog_module
from bigcluster.demo.catalog import cut_path
from bigcluster.demo.hostile import HOSTILE, expected_statuses
from bigcluster.demo.styles import style_of
from bigcluster.errors import ConfigError, OutError, StoreError

THUMB = (15, 21)  # width, height


def contents(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.jpg")}


def read_truth(truth: Path) -> list[tuple[str, str]]:
    with open(truth, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "style"]
    return [(path, style) for path, style in rows]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo") / "new" / "catalog"
    generate(directory, 100, threads=2)
    return directory


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bad-day")
    generate(directory, 3, hostile=True)
    return directory


def test_cuts_depend_on_seed_and_index_alone(catalog: Path, tmp_path: Path) -> None:
    generate(tmp_path / "short", 40, threads=1)
    generate(tmp_path / "other", 40, seed=1, threads=3)
    long, short, other = contents(catalog), contents(tmp_path / "short"), contents(tmp_path / "other")
    assert len(long) == 100
    assert len(short) == 40
    assert all(long[path] == content for path, content in short.items())
    assert all(other[path] != content for path, content in short.items())


def test_no_two_cuts_are_equal(catalog: Path) -> None:
    assert len(set(contents(catalog).values())) == 100


def test_cuts_are_grey_jpegs_of_one_size(catalog: Path) -> None:
    for path in sorted(catalog.rglob("*.jpg"))[:20]:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "L", (WIDTH, HEIGHT))


def test_cuts_are_about_as_large_as_scanned_ones(catalog: Path) -> None:
    sizes = [len(content) for content in contents(catalog).values()]
    assert 35_000 < np.mean(sizes) < 60_000


def test_truth_names_every_cut_in_order(catalog: Path) -> None:
    truth = read_truth(catalog / "truth.csv")
    assert [path for path, _ in truth] == sorted(contents(catalog))
    assert [style for _, style in truth] == [style_of(0, index).name for index in range(100)]


def test_paths_are_unique_and_sort_as_numbered() -> None:
    paths = [cut_path(index) for index in range(0, 300_000, 7)]
    assert paths == sorted(paths)
    assert len(set(paths)) == len(paths)
    assert cut_path(2047) == "hall-001/cut-002048.jpg"
    assert cut_path(2048) == "hall-002/cut-002049.jpg"


def test_nothing_unfinished_is_left(catalog: Path) -> None:
    assert {path.name for path in catalog.iterdir()} == {"hall-001", "truth.csv"}


def test_styles_come_in_their_shares() -> None:
    n_cuts = 4000
    names = [style_of(5, index).name for index in range(n_cuts)]
    assert sum(style.share for style in STYLES) == pytest.approx(1)
    for style in STYLES:
        # Five standard deviations of a binomial count.
        slack = 5 * (style.share * (1 - style.share) / n_cuts) ** 0.5
        assert names.count(style.name) / n_cuts == pytest.approx(style.share, abs=slack)


def test_styles_can_be_told_apart() -> None:
    """The nearest mean thumbnail of a style names the style of most new cuts; a blind guess names an eighth at best."""
    drawn = [draw_cut(0, index) for index in range(450)]
    thumbs = np.stack([cv2.resize(page, THUMB, interpolation=cv2.INTER_AREA).ravel() for page, _ in drawn]).astype(
        float
    )
    labels = np.array([STYLES.index(style) for _, style in drawn])
    means = np.stack([thumbs[:300][labels[:300] == i].mean(axis=0) for i in range(len(STYLES))])
    nearest = ((thumbs[300:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == labels[300:]) > 0.5


def test_dark_styles_are_dark_and_bands_are_where_they_should_be() -> None:
    drawn: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = {style.name: [] for style in STYLES}
    for index in range(200):
        page, style = draw_cut(1, index)
        drawn[style.name].append(page)
    assert all(page.mean() < 40 for page in drawn["night"])
    assert all(page.mean() < 110 for page in drawn["text-on-black"])
    assert all(page.mean() > 140 for page in drawn["text-on-white"])
    assert all(np.median(page[-50:]) < 50 for page in drawn["black-band-bottom"])
    assert all(np.median(page[-50:]) > 200 for page in drawn["white-band-bottom"])
    assert all(np.median(page[4:50, 70:]) < 50 for page in drawn["black-band-top"])
    assert all(np.median(page[4:50, 70:]) > 200 for page in drawn["white-band-top"])


def test_progress_counts_up_to_the_end(tmp_path: Path) -> None:
    counts: list[int] = []
    generate(tmp_path, 70, on_progress=counts.append)
    assert counts == sorted(set(counts))
    assert counts[-1] == 70


def test_opencv_threads_are_given_back(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    generate(tmp_path, 1)
    assert cv2.getNumThreads() == before


def test_a_folder_with_anything_in_it_is_refused(catalog: Path, tmp_path: Path) -> None:
    before = contents(catalog)
    with pytest.raises(OutError, match="not empty"):
        generate(catalog, 5)
    assert contents(catalog) == before
    (tmp_path / ".hidden").touch()
    with pytest.raises(OutError, match="not empty"):
        generate(tmp_path, 5)
    with pytest.raises(OutError, match="is a file"):
        generate(tmp_path / ".hidden", 5)


@pytest.mark.parametrize(
    "wrong", [{"images": 0}, {"images": 5, "seed": -1}, {"images": 5, "threads": 0}, {"images": "abc"}, {"images": 2.5}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must be a whole number of at least"):
        generate(tmp_path / "catalog", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "catalog").exists()


def test_a_failed_write_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(page: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catalog_module, "encode", full)
    with pytest.raises(StoreError, match="No space left"):
        generate(tmp_path, 200, threads=2)
    assert not (tmp_path / "truth.csv").exists()


def test_a_stop_leaves_no_truth_and_no_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, 5000, threads=2, on_progress=stop)
    assert not (tmp_path / "truth.csv").exists()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert len(contents(tmp_path)) < 1000


# The files of a bad day


def test_hostile_files_are_all_there_and_not_in_the_truth(bad_day: Path) -> None:
    below = {path.relative_to(bad_day).as_posix() for path in (bad_day / "hostile").rglob("*")}
    declared = {file.path for file in HOSTILE}
    assert len(declared) == len(HOSTILE)
    assert declared <= below
    assert {path for path in below - declared if not (bad_day / path).is_dir()} == set()
    assert [path for path, _ in read_truth(bad_day / "truth.csv")] == [cut_path(index) for index in range(3)]


def test_hostile_files_that_are_ok_show_a_cut(bad_day: Path) -> None:
    for path, status in expected_statuses().items():
        if status != "ok":
            continue
        content = np.frombuffer((bad_day / path).read_bytes(), np.uint8)
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
        assert decoded is not None, path
        assert decoded.shape[:2] == (HEIGHT, WIDTH), path


def test_hostile_files_are_what_they_are_said_to_be(bad_day: Path) -> None:
    folder = bad_day / "hostile"
    assert (folder / "empty.jpg").stat().st_size == 0
    assert (folder / "huge-header.png").stat().st_size < 200
    assert (folder / "huge-header.png").read_bytes()[16:24] == (60_000).to_bytes(4, "big") * 2
    assert not (folder / "text.jpg").read_bytes().startswith(b"\xff\xd8")
    truncated = (folder / "truncated.jpg").read_bytes()
    assert truncated.startswith(b"\xff\xd8")
    assert not truncated.endswith(b"\xff\xd9")
    deep = cv2.imread(os.fspath(folder / "12-bits-in-16.png"), cv2.IMREAD_UNCHANGED)
    assert deep is not None
    assert deep.dtype == np.uint16
    assert 2048 < deep.max() < 4096
    modes = {"transparent.png": "RGBA", "cmyk.jpg": "CMYK", "one-bit.png": "1", "rotated-by-exif.jpg": "L"}
    for name, mode in modes.items():
        with Image.open(folder / name) as image:
            assert image.mode == mode
    with Image.open(folder / "animated.gif") as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    with Image.open(folder / "rotated-by-exif.jpg") as image:
        assert image.size == (HEIGHT, WIDTH)
        assert image.getexif()[274] == 6


def test_the_rotated_file_turns_back_into_its_cut(bad_day: Path) -> None:
    which = [file.path for file in HOSTILE].index("hostile/rotated-by-exif.jpg")
    page = draw_cut(0, 2**31 - 1 - which)[0]
    turned = cv2.imread(os.fspath(bad_day / HOSTILE[which].path), cv2.IMREAD_GRAYSCALE)
    assert turned is not None
    assert np.abs(turned.astype(int) - page).mean() < 12


def test_links_and_permissions(bad_day: Path) -> None:
    loop = bad_day / "hostile" / "loop" / "again"
    assert loop.is_symlink()
    assert loop.resolve() == (bad_day / "hostile").resolve()
    assert (bad_day / "hostile" / "unreadable.jpg").stat().st_mode & 0o777 == 0
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            (bad_day / "hostile" / "unreadable.jpg").read_bytes()
    left, right = (bad_day / "hostile" / "twins" / side / "same.jpg" for side in ("left", "right"))
    assert left.read_bytes() != right.read_bytes()
