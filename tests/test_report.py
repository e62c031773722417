"""The report, without a browser: what stands where, that links resolve, that pictures are the right ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import cv2
import numpy as np
import pytest
from conftest import Cli, encoded, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from reporting import members_of, piece

import bigcluster as bc
from bigcluster.catalog import FileRecord, StringArray, to_csv_path
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import StoreError
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.report import lists, search
from bigcluster.report.drawing import row_blocks
from bigcluster.report.lists import places_of, select
from bigcluster.report.model import Listed, Members, Written
from bigcluster.report.texts import file_name, number, visible
from bigcluster.report.thumbnails import factor_for, shrink, shrunk_shape, write_sprite


class Page(HTMLParser):
    """Tags, links and what could run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def pages(report: Path) -> list[Page]:
    return [Page(path) for path in sorted(report.rglob("*.html"))]


def leads_somewhere(page: Path, link: str) -> bool:
    return os.path.exists(os.path.join(os.fsencode(page.parent), unquote_bytes(link)))


def unquote_bytes(link: str) -> bytes:
    return os.fsencode(unquote(link.partition("#")[0], errors="surrogateescape"))


# -- pages


def test_a_run_leaves_all_pages(made: Path) -> None:
    report = made / "report"
    names = {page.path.relative_to(report).as_posix() for page in pages(report)}
    assert names >= {"index.html", "pca.html", "k.html", "map.html", "failures.html", "clusters/00.html"}
    summary = json.loads((made / "summary.json").read_text())
    assert len(list((report / "clusters").iterdir())) == summary["n_clusters"]
    assert summary["stages"]["report"]["measured_peak_bytes"] > 0
    assert summary["stages"]["report"]["projected_peak_bytes"] >= summary["stages"]["report"]["measured_peak_bytes"]


def test_every_link_leads_somewhere(made: Path) -> None:
    for page in pages(made / "report"):
        for link in page.links:
            if not link.startswith(("data:", "#")):
                assert leads_somewhere(page.path, link), f"{page.path.name} links to {link}"


def test_every_member_and_every_failure_is_listed_once(made: Path) -> None:
    table = bc.open(made).labels
    good, failed = table[table.label >= 0], table[table.label < 0]
    listed = [row for label in sorted(set(good.label)) for row in members_of(made, label)]
    assert sorted(row[0] for row in listed) == sorted(good.path)
    assert sorted(row[0] for row in piece(made, "failed/0")) == sorted(failed.path)
    by_path = {row[0]: row for row in listed}
    for row in good.itertuples():
        assert by_path[row.path][1:4] == [row.distance, row.runner_up, row.margin]


def test_links_of_members_lead_to_their_files(made: Path) -> None:
    """By the rule of report.js: 1 is the file's own name, a text is where it is."""
    for label in sorted(set(bc.open(made).labels.label) - {-1}):
        for path, *_, link in members_of(made, label):
            below = link if isinstance(link, str) else f"{label:02d}/{quote(file_name(path))}"
            assert link != 0
            assert os.path.exists(os.fsencode(made / "clusters") + b"/" + unquote_bytes(below)), (path, link)


def test_nothing_in_a_page_can_run(made: Path) -> None:
    for page in pages(made / "report"):
        policy = [a["content"] or "" for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
        assert len(policy) == 1
        assert "default-src 'none'" in policy[0]
        assert "unsafe" not in policy[0]
        for tag, attributes in page.tags:
            assert "style" not in attributes, "the policy forbids it"
            assert not any(name.startswith("on") for name in attributes), (page.path, tag, attributes)
            assert tag != "script" or attributes["src"]
            assert tag != "img" or attributes["alt"], f"{page.path}: a picture without a text"


def test_pieces_are_ascii_and_hold_no_tag(made: Path) -> None:
    for path in (made / "report" / "data").rglob("*.js"):
        text = path.read_bytes()
        assert text.isascii()
        assert b"<" not in text


def test_what_labels_csv_escapes_is_shown_as_there(made: Path) -> None:
    shown = {row[0] for label in (0, 1, 2) for row in members_of(made, label)}
    assert "hostile/caf\\xe9.png" in shown
    assert "hostile/line\nbreak.png" in shown
    page = (made / "report" / "failures.html").read_text(encoding="utf-8")
    assert "1 of" in page


# -- pictures


def smooth_pictures(folder: Path, n: int, width: int, height: int, *, color: bool) -> NDArray[np.uint8]:
    """Pictures that survive WebP; (n, h, w[, 3]) as written."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    arrays = []
    for i in range(n):
        coarse = rng.integers(0, 256, (3, 3, 3) if color else (3, 3)).astype(np.uint8)
        arrays.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
        (folder / f"p{i:03d}.png").write_bytes(encoded(arrays[-1]))
    return np.array(arrays)


def tile_of(report: Path, cluster: str, position: int, size: tuple[int, int], n_tiles: int) -> NDArray[np.uint8]:
    sheet = Image.open(report / "sprites" / cluster / "0.webp")
    row, column = divmod(position, min(20, n_tiles))
    width, height = size
    box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
    return np.asarray(sheet.convert("RGB").crop(box))


@pytest.mark.parametrize("color", [False, True], ids=["grey", "color"])
def test_a_tile_shows_the_image_of_its_row(tmp_path: Path, cli: Cli, color: bool) -> None:
    arrays = smooth_pictures(tmp_path / "in", 30, 48, 64, color=color)
    out = tmp_path / "out"
    features = "color" if color else "gray"
    assert cli("run", tmp_path / "in", "--out", out, "-k", 2, "--size", "48x64", "--features", features).code == 0
    for label in (0, 1):
        rows = members_of(out, label)
        for position, row in enumerate(rows):
            tile = tile_of(out / "report", f"{label:02d}", position, (48, 64), len(rows)).astype(int)
            wanted = arrays[int(row[0][1:4])].astype(int)
            assert np.abs(tile - (wanted if color else wanted[..., np.newaxis])).mean() < 6, row[0]


@pytest.mark.parametrize("solver", ["gram", "covariance"])
def test_the_picture_of_a_center_is_its_inverse_pca(tmp_path: Path, cli: Cli, solver: str) -> None:
    """Whether components are stored or summed up as the pixels pass by."""
    smooth_pictures(tmp_path / "in", 24, 32, 32, color=False)
    out = tmp_path / "out"
    ran = cli("run", tmp_path / "in", "--out", out, "-k", 3, "--size", 32, "--set", f"pca.solver={solver}")
    assert ran.code == 0
    run = bc.open(out)
    pixels = np.array([cv2.imread(str(path), 0) for path in sorted((tmp_path / "in").iterdir())]).reshape(24, -1)
    mean = pixels.mean(axis=0)
    components = np.linalg.lstsq(run.scores.compute(), pixels - mean, rcond=None)[0]  # (r, d): scores V = x - mean
    for label in range(3):
        wanted = mean + run.centers[label] @ components
        shown = np.asarray(Image.open(out / "report" / "sprites" / f"0{label}" / "center.webp").convert("L"), int)
        assert np.abs(shown.ravel() - wanted).mean() < 6


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(1, 16))
def test_shrinking_averages_whole_squares(width: int, height: int, color: bool, most: int) -> None:
    spec = DecodeSpec(width, height, color)
    factor = factor_for(spec, most)
    assert max(width, height) / factor <= most
    pixels = np.random.default_rng(0).integers(0, 256, (3, spec.n_values)).astype(np.float32)
    small = shrink(pixels, spec, factor, np.array([0, 2]))
    assert small.shape == (2, *shrunk_shape(spec, factor))
    across, down = min(factor, width), min(factor, height)
    for row, found in zip((0, 2), small, strict=True):
        square = pixels[row].reshape(height, width, -1)[:down, :across].mean(axis=(0, 1))
        np.testing.assert_allclose(np.atleast_1d(found[0, 0]), square, rtol=1e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.integers(1, 9))
def test_blocks_cover_every_good_row_once(ok: list[bool], chunk_rows: int) -> None:
    blocks = list(row_blocks(np.array(ok), chunk_rows))
    covered = [row for block in blocks for row in range(block.start, block.stop)]
    assert covered == list(range(sum(ok)))
    physical = np.concatenate([block.physical for block in blocks]) if blocks else np.empty(0)
    assert physical.tolist() == np.flatnonzero(ok).tolist()
    for block in blocks:
        assert len(set(block.physical // chunk_rows)) == 1


def test_a_sprite_says_where_its_tiles_are(tmp_path: Path) -> None:
    tiles = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 16 * 8).reshape(25, 16, 8)
    sprite = write_sprite(tmp_path, "a/s.webp", tiles)
    sheet = np.asarray(Image.open(tmp_path / "a" / "s.webp").convert("L"), int)
    assert sheet.shape == (sprite.height, sprite.width)
    for index in range(25):
        x, y, width, height = map(int, sprite.view_box(index).split())
        assert np.abs(sheet[y : y + height, x : x + width] - 10 * index).mean() < 4


# -- what is chosen, sorted, shown


def members(labels: NDArray[np.int32], distance: NDArray[np.float64]) -> Members:
    order = np.lexsort((distance, labels))
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels))])
    return Members(labels, distance, (labels + 1).astype(np.int32), distance[::-1].copy(), order, starts)


@given(st.integers(1, 6), st.integers(1, 60), st.integers(1, 80), st.integers(0, 2**32))
def test_whatever_a_page_shows_has_its_picture(k: int, per_cluster: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.sort(np.concatenate([np.arange(k), rng.integers(0, k, per_cluster)])).astype(np.int32)
    found = members(labels, rng.random(len(labels)))
    chosen = select(found, rng.integers(0, 2**63, len(labels)).astype(np.uint64), most, with_map=True)
    pictured = set(chosen.rows.tolist())
    assert sorted(pictured) == chosen.rows.tolist()
    for cluster, picks in enumerate(chosen.picks):
        rows = found.of(cluster)
        assert set(rows[picks.all].tolist()) <= pictured
        assert set(rows[: chosen.n_paged].tolist()) <= pictured
        assert picks.nearest[0] == 0
        assert picks.farthest[0] == len(rows) - 1
        margins = found.margin[rows][picks.borderline]  # type: ignore[index]
        assert margins.tolist() == sorted(found.margin[rows])[: len(margins)]  # type: ignore[index]
        assert len(set(picks.sample.tolist())) == len(picks.sample)
    if len(labels) <= most:
        assert chosen.shows_all(found)


class Listing:
    """As much of a model as the search needs."""

    def __init__(self, good: list[str], failed: list[str]) -> None:
        n = len(good)
        self.members = members(np.zeros(n, np.int32), np.arange(n)[::-1].astype(float))
        picture = FileRecord(1, 1, 1, 1, "ab" * 16, "ok", "")
        ledger = Ledger.of([picture] * n + [replace(picture, status="damaged")] * len(failed))
        names = StringArray([*good, *failed])
        self.listed = Listed.of(Written(names, ledger, names))
        self.n_good = n


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1, max_size=6)


@settings(max_examples=60)
@given(st.lists(NAMES, min_size=1, max_size=40), st.lists(NAMES, max_size=5))
def test_every_name_is_found_by_each_of_its_beginnings(
    tmp_path_factory: pytest.TempPathFactory, good: list[str], failed: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PIECE_ROWS", 3)
        model: Any = Listing([f"x/{name}" for name in good], failed)
        shown, shown_failed = [to_csv_path(f"x/{name}") for name in good], list(map(to_csv_path, failed))
        n_pieces = search.write_search(folder, model)
    index = piece(folder, "search/index", report=".")
    found = [piece(folder, f"search/{number}", report=".") for number in range(n_pieces)]
    units = [name.encode("utf-16-be", "surrogatepass") for name in index]
    assert units == sorted(units)
    assert sorted(row[0] for rows in found for row in rows) == sorted(shown + shown_failed)
    places = places_of(model)
    for rows, first in zip(found, index, strict=True):
        assert search.folded(file_name(rows[0][0])) == first
        keys = [search.folded(file_name(row[0])).encode("utf-16-be") for row in rows]
        assert keys == sorted(keys)
        for path, label, place in rows:
            wanted = shown_failed if label == search.FAILED else shown
            assert any(places[i + (len(good) if label < 0 else 0)] == place for i, p in enumerate(wanted) if p == path)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_shown_text_is_one_line(texts: list[str]) -> None:
    assert all(visible(text).isprintable() or not text.isprintable() for text in texts)


def test_numbers_are_shown_as_people_write_them() -> None:
    shown = [number(value) for value in (0, 0.00012345, 1.5, 12.3456, 10890, 1234567, 4.3693e12, 1e-9)]
    assert shown == ["0", "0.0001234", "1.5", "12.35", "10,890", "1,235,000", "4.369e+12", "1e-09"]


def test_a_piece_is_json(tmp_path: Path) -> None:
    value = ["</script>", "\u2028", "<!--", '"', "é", "\x00"]
    lists.write_piece(tmp_path, "a/b", value)
    assert piece(tmp_path, "a/b", report=".") == value
    assert b"<" not in (tmp_path / "data/a/b.js").read_bytes()


# -- written, kept, refused


@pytest.fixture
def small(tmp_path: Path, cli: Cli) -> Path:
    """An OUT of twelve pictures."""
    write_pictures(tmp_path / "in", 12)
    assert cli("run", tmp_path / "in", "--out", tmp_path / "out", "-k", 2, "--size", 16).code == 0
    return tmp_path / "out"


def times(report: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in report.rglob("*") if path.is_file()}


def test_a_report_is_written_again_only_where_it_has_to_be(small: Path, cli: Cli) -> None:
    report = small / "report"
    before = times(report)
    (report / "mine.txt").write_text("a note")
    assert "report: reused" in cli("run", "--out", small).err
    assert {name: at for name, at in times(report).items() if name != "mine.txt"} == before
    (report / "k.html").unlink()
    assert "report: reused" not in cli("run", "--out", small).err
    assert (report / "k.html").is_file()
    assert (report / "mine.txt").read_text() == "a note", "files of others stay"
    assert "report: reused" not in cli("run", "--out", small, "-k", 3).err
    assert len(list((report / "clusters").iterdir())) == 3
    assert not (small / ".report.new").exists()
    assert not (small / ".report.old").exists()


def test_the_report_can_be_left_out_and_made_later(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "in", 8)
    out = tmp_path / "out"
    ran = cli("run", tmp_path / "in", "--out", out, "-k", 2, "--set", "report.write=false")
    assert ran.code == 0
    assert not (out / "report").exists()
    assert "report" not in json.loads((out / "summary.json").read_text())["stages"]
    labels = (out / "labels.csv").read_bytes()
    made = cli("report", out, "--json")
    assert made.code == 0
    assert json.loads(made.out)["report"] == str(out / "report" / "index.html")
    assert (out / "report" / "index.html").is_file()
    assert (out / "labels.csv").read_bytes() == labels
    assert bc.open(out).report(set={"report.map": "none"}) == out / "report" / "index.html"
    assert not (out / "report" / "map.html").exists()


@pytest.mark.parametrize(
    ("args", "says", "code"),
    [
        (("--set", "kmeans.n_init=2"), "--set may name report.* and cluster.*, not kmeans.n_init", 2),
        (("--set", "report.map=mds"), "must be one of pca, tsne, umap, none", 2),
        (("--memory", "100MiB"), "stage 'report' needs", 2),
    ],
)
def test_wrong_calls_are_one_line(small: Path, cli: Cli, args: tuple[str, ...], says: str, code: int) -> None:
    before = times(small / "report")
    ran = cli("report", small, *args)
    assert ran.code == code
    assert says in ran.err
    assert len(ran.error_lines) == 1
    assert times(small / "report") == before


def test_without_a_finished_run_it_says_so(tmp_path: Path, cli: Cli, small: Path) -> None:
    for out in (tmp_path, tmp_path / "nothing"):
        ran = cli("report", out)
        assert ran.code == 2
        assert "holds no run" in ran.err
    (small / "summary.json").unlink()
    ran = cli("report", small)
    assert ran.code == 1
    assert "holds no finished run" in ran.err


def test_tables_that_are_not_those_of_the_clusters_are_noticed(small: Path, cli: Cli) -> None:
    table = (small / "labels.csv").read_text()
    (small / "labels.csv").write_text(table.replace("p000.png,", "p000.png,1", 1))
    ran = cli("report", small)
    assert ran.code == 1
    assert "labels.csv is not that of the stored clusters" in ran.err
    assert (small / "report" / "index.html").is_file(), "the old one stays"


def test_a_map_by_tsne(small: Path, cli: Cli) -> None:
    assert cli("report", small, "--set", "report.map=tsne").code == 0
    assert len(piece(small, "map")) == 12


@pytest.mark.usefixtures("permissions")
def test_no_permission_is_one_line_and_the_run_is_not_lost(small: Path, cli: Cli) -> None:
    os.chmod(small, 0o555)
    try:
        ran = cli("report", small, unprivileged=True)
    finally:
        os.chmod(small, 0o755)
    assert ran.code == 1
    assert "the report cannot be written" in ran.err
    assert "Permission denied" in ran.err
    assert len([line for line in ran.error_lines if "step" not in line]) == 1
    assert (small / "report" / "index.html").is_file()


def test_images_that_are_gone_keep_their_pictures(tmp_path: Path, cli: Cli) -> None:
    files = write_pictures(tmp_path / "in", 12)
    out = tmp_path / "out"
    assert cli("run", tmp_path / "in", "--out", out, "-k", 2, "--size", 16, "--link", "symlink").code == 0
    before = (out / "report" / "sprites" / "00" / "0.webp").read_bytes()
    for file in files[:5]:
        file.unlink()
    assert cli("report", out).code == 0
    assert (out / "report" / "sprites" / "00" / "0.webp").read_bytes() == before
    page = (out / "report" / "clusters" / "00.html").read_text(encoding="utf-8")
    assert "5 of the linked images are gone since the run" in page
    links = [row[6] for label in (0, 1) for row in members_of(out, label)]
    assert links.count(0) == 5
    test_every_link_leads_somewhere(out)
    assert bc.open(out)._repr_html_().count("data:image/webp;base64,") == 2


def test_originals_that_are_gone_are_counted_where_hard_links_keep_them(tmp_path: Path, cli: Cli) -> None:
    files = write_pictures(tmp_path / "in", 6)
    out = tmp_path / "out"
    assert cli("run", tmp_path / "in", "--out", out, "-k", 2, "--size", 16).code == 0
    files[0].unlink()
    assert cli("report", out).code == 0
    assert "1 original was removed or replaced" in (out / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "args",
    [
        ("-k", "1"),
        ("-k", "2", "--set", "reduce=none", "--link", "none"),
        ("-k", "3", "--components", "1", "--size", "7x90", "--features", "color"),
        ("-k", "9", "--set", "report.thumbnails=9", "--set", "report.map=none"),
        ("-k", "2:4", "--set", "image.normalize=image"),
    ],
    ids=["one cluster", "pixels", "one component", "few pictures", "sweep"],
)
def test_any_settings_make_a_report(tmp_path: Path, cli: Cli, args: tuple[str, ...]) -> None:
    write_pictures(tmp_path / "in", 14)
    out = tmp_path / "out"
    ran = cli("run", tmp_path / "in", "--out", out, "--size", "16", *args)
    assert ran.code == 0, ran.err
    test_every_link_leads_somewhere(out)
    test_nothing_in_a_page_can_run(out)
    assert (out / "report" / "pca.html").is_file() == ("reduce=none" not in args)
    assert (out / "report" / "map.html").is_file() == ("report.map=none" not in args)
    assert ("elbow.svg" in (out / "report" / "k.html").read_text(encoding="utf-8")) == ("2:4" in args)


def test_a_sweep_of_former_scores_is_not_shown(small: Path, cli: Cli) -> None:
    assert cli("sweep", small, "-k", "2:4").code == 0
    assert "report" in cli("report", small).out
    page = small / "report" / "k.html"
    assert "elbow.svg" in page.read_text(encoding="utf-8")
    assert cli("run", "--out", small, "--components", 2).code == 0
    assert "elbow.svg" not in page.read_text(encoding="utf-8")


def test_the_pages_do_not_depend_on_the_budget(small: Path, cli: Cli) -> None:
    def content() -> dict[str, bytes]:
        files = (path for path in (small / "report").rglob("*") if path.is_file())
        return {path.relative_to(small).as_posix(): path.read_bytes() for path in files}

    assert cli("report", small, "--memory", "4GiB", "--threads", 2).code == 0
    first = content()
    assert cli("report", small, "--memory", "400MiB", "--threads", 1).code == 0
    assert content() == first


# -- in a notebook


def test_a_notebook_shows_counts_sizes_and_pictures(made: Path) -> None:
    shown = bc.open(made)._repr_html_()
    summary = json.loads((made / "summary.json").read_text())
    assert f"{summary['counts']['ok']} images in {summary['n_clusters']} clusters" in shown
    assert shown.count("data:image/webp;base64,") == summary["n_clusters"]
    assert len(shown) < 200_000


def test_a_notebook_escapes_names(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "in", 6)
    out = tmp_path / "<b onclick=x>"
    assert cli("run", tmp_path / "in", "--out", out, "-k", 2).code == 0
    assert "<b onclick" not in bc.open(out)._repr_html_()
    shown = bc.open(out)._repr_html_()
    shutil.rmtree(out / "clusters")
    assert bc.open(out)._repr_html_() == shown


def test_a_notebook_shows_nothing_but_what_is_in_the_store(small: Path, tmp_path: Path) -> None:
    """Whatever tables and summary of a stranger's OUT say: no markup of theirs, and no other file."""
    shown = bc.open(small)._repr_html_()
    (tmp_path / "private.png").write_bytes(encoded(np.full((9, 9), 77, np.uint8)))
    labels = (small / "labels.csv").read_text().splitlines()
    row = [*labels[1].split(",")[:6], os.path.relpath(tmp_path / "private.png", small / "clusters")]
    (small / "labels.csv").write_text("\r\n".join([labels[0], *[",".join(row)] * (len(labels) - 1)]) + "\r\n")
    assert bc.open(small)._repr_html_() == shown
    summary = json.loads((small / "summary.json").read_text())

    def markup(value: object) -> object:
        if isinstance(value, dict):
            return {name: markup(inner) for name, inner in value.items()}
        return [markup(inner) for inner in value] if isinstance(value, list) else "<img src=x onerror=alert(1)>"

    for name, value in summary.items():
        (small / "summary.json").write_text(json.dumps(summary | {name: markup(value)}))
        with contextlib.suppress(StoreError):  # what it says is of no use
            assert "<img src=x" not in bc.open(small)._repr_html_()
