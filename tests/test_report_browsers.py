"""The report in real browsers, opened from disk: nothing complains, everything works, bad names are text."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from browsing import Browser, Chromium, chromium, firefox, missing, wait_for
from conftest import Cli, encoded
from PIL import Image
from reporting import HOSTILE, N_DARK

from bigcluster.catalog import to_csv_path
from bigcluster.report.search import folded
from bigcluster.report.texts import number, visible

pytestmark = pytest.mark.slow

NewPage = Callable[..., Chromium]


@pytest.fixture(scope="session")
def chromium_pages() -> Iterator[NewPage]:
    why = missing("chromium")
    if why:
        pytest.skip(why)
    with chromium() as new_page:
        yield new_page


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    why = missing(request.param)
    if why:
        pytest.skip(why)
    if request.param == "chromium":
        yield request.getfixturevalue("chromium_pages")(viewport={"width": 1100, "height": 800})
    else:
        with firefox(tmp_path_factory.mktemp("firefox") / "log") as found:
            yield found


@pytest.fixture(scope="session")
def report(made: Path) -> Path:
    return made / "report"


def every_page(report: Path) -> list[Path]:
    return sorted(report.rglob("*.html"))


SETTLED = """
    const rows = document.querySelector("#members, #failed");
    const map = document.getElementById("map");
    return document.readyState === "complete" && (!rows || rows.children.length > 0) && (!map || map.dataset.ready);"""


def test_every_page_opens_without_a_complaint_or_a_request(browser: Browser, report: Path) -> None:
    asked = []
    for page in every_page(report):
        browser.open(page)
        wait_for(browser, SETTLED)
        broken = "return [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"
        assert browser.run(broken) == [], page
        asked += browser.run("return performance.getEntriesByType('resource').map((r) => r.name)")
    if isinstance(browser, Chromium):
        asked += browser.requests
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert browser.complaints() == []


def test_the_policy_refuses_what_a_name_might_bring(browser: Browser, report: Path) -> None:
    browser.open(report / "index.html")
    ran = browser.run("""
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.bitten = 1'>");
        const script = document.createElement("script");
        script.textContent = "window.bitten = 2";
        document.body.append(script);
        await new Promise((done) => setTimeout(done, 200));
        return window.bitten ?? null;""")
    assert ran is None
    assert browser.complaints(), "and says so: the test above could see it"


def test_the_montage_blurs_and_grows(browser: Browser, report: Path) -> None:
    browser.open(report / "index.html")
    picture = "const image = document.querySelector('.column img');"
    wide = browser.run(f"{picture} return image.clientWidth")
    assert browser.run(f"{picture} return getComputedStyle(image).filter") == "none"
    browser.run("document.getElementById('blur').click()")
    assert "blur" in browser.run(f"{picture} return getComputedStyle(image).filter")
    browser.run("const s = document.getElementById('size'); s.value = 144; s.dispatchEvent(new Event('input'))")
    assert browser.run(f"{picture} return image.clientWidth") == 2 * wide == 144
    browser.run("document.getElementById('blur').click()")
    assert browser.run(f"{picture} return getComputedStyle(image).filter") == "none"


def test_long_lists_have_pages(browser: Browser, report: Path) -> None:
    browser.open(report / "clusters" / "00.html")
    first = wait_for(browser, "return document.querySelector('#members .tile bdi')?.textContent")
    where = "return document.getElementById('page-where').textContent"
    assert browser.run(where) == "page 1 of 2"
    assert browser.run("return document.getElementById('members').children.length") == 200
    browser.run("document.getElementById('page-on').click()")
    wait_for(browser, "return document.getElementById('members').children.length === a", N_DARK - 200)
    assert browser.run(where) == "page 2 of 2"
    assert browser.run("return document.getElementById('page-on').disabled")
    browser.run("document.getElementById('page-back').click()")
    wait_for(browser, "return document.querySelector('#members .tile bdi').textContent === a", first)


def test_arrow_keys_go_from_cluster_to_cluster(browser: Browser, report: Path) -> None:
    browser.open(report / "clusters" / "00.html")
    heading = "return document.readyState === 'complete' && document.querySelector('h1').textContent === a"
    for key, cluster in (("ArrowRight", "01"), ("ArrowRight", "02"), ("ArrowLeft", "01")):
        browser.press(key)
        wait_for(browser, heading, f"Cluster {cluster}")
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "search"
    browser.press("ArrowRight")  # somebody types
    assert browser.run("return document.querySelector('h1').textContent") == "Cluster 01"


FIND = """
    const input = document.getElementById("search");
    input.value = a;
    input.dispatchEvent(new Event("input"));
    const box = document.getElementById("found");
    for (let i = 0; i < 500 && (box.hidden || box.dataset.of !== page.folded(a)); i += 1)
        await new Promise((done) => setTimeout(done, 20));
    return [...box.querySelectorAll("a")].map((link) => link.querySelector("bdi").textContent);"""


def test_names_are_found_by_how_they_begin(browser: Browser, report: Path) -> None:
    browser.open(report / "index.html")
    assert browser.run(FIND, "CUT-00") == [f"cut-00{i}.png" for i in range(10)]
    assert len(browser.run(FIND, "cut")) == 50
    assert browser.run(FIND, "nobody") == []
    assert browser.run(FIND, "<b>n") == ["hostile/<b>none<b>.png"]
    for name in HOSTILE:
        shown = visible(to_csv_path(f"hostile/{name}"))
        assert shown in browser.run(FIND, shown.removeprefix("hostile/")[:4])
    browser.run(FIND, f"cut-{N_DARK - 1:03d}")
    browser.run("document.querySelector('#found a').click()")
    sought = "return document.querySelector('.sought bdi')?.textContent === a"
    wait_for(browser, sought, f"cut-{N_DARK - 1:03d}.png")
    browser.press("Escape")
    assert browser.run("return document.getElementById('found').hidden")


def test_bad_names_are_text(browser: Browser, report: Path) -> None:
    """Where they are listed, and where they are a picture's text; nothing of them became an element."""
    shown = set()
    for page in every_page(report):
        browser.open(page)
        wait_for(browser, SETTLED)
        shown |= set(browser.run("return [...document.querySelectorAll('bdi')].map((e) => e.textContent)"))
        assert (
            browser.run("return document.querySelectorAll('main script, img[onerror], main b:not(.head b)').length")
            == 0
        )
    assert {visible(to_csv_path(f"hostile/{name}")) for name in HOSTILE} <= shown
    assert "hostile/<b>none<b>.png" in shown
    assert browser.complaints() == []


def test_both_languages_show_texts_alike(browser: Browser, report: Path) -> None:
    """report.js and Python have some rules twice: what names look like, how they compare, how numbers are written."""
    browser.open(report / "index.html")
    texts = [*HOSTILE[:6], "ÀÉ", "É", "İstanbul", "ΣΑΣ", "ß", "\x00\x1f\x7f", "ﬁ", "🐈", "Ǆ"]
    assert browser.run("return a.map((text) => page.visible(text))", texts) == [visible(text) for text in texts]
    assert browser.run("return a.map((text) => page.folded(text))", texts) == [folded(text) for text in texts]
    numbers = [0, 0.00012345, 1.5, 12.3456, 10890, 1234567, 99999999]
    assert browser.run("return a.map((value) => page.shownNumber(value))", numbers) == [
        number(value) for value in numbers
    ]


def test_the_map_shows_what_is_pointed_at(chromium_pages: NewPage, report: Path) -> None:
    browser = chromium_pages(viewport={"width": 1000, "height": 900})
    browser.open(report / "map.html")
    wait_for(browser, SETTLED)
    x, y, label, place, path = json.loads(browser.run("return JSON.stringify((await page.piece('map'))[7])"))
    spot = browser.run(
        """
        const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect();
        const unit = (Math.min(canvas.clientWidth, canvas.clientHeight) - 24) / 10000;
        return [box.left + box.width / 2 + (a - 5000) * unit, box.top + box.height / 2 - (b - 5000) * unit];""",
        x,
        y,
    )
    browser.page.mouse.move(*spot)
    tip = wait_for(browser, "const t = document.getElementById('tip'); return !t.hidden && t.textContent")
    assert f"cluster {label:02d}" in tip or "cluster" in tip
    assert wait_for(browser, "return document.querySelector('#tip image')?.getAttribute('href')").endswith(".webp")
    browser.page.mouse.wheel(0, -400)
    wait_for(browser, "return Number(document.getElementById('map').dataset.scale) > 1.5")
    browser.run("document.getElementById('reset').click()")
    assert browser.run("return document.getElementById('map').dataset.scale") == "1.000"
    browser.page.mouse.click(*spot)
    wait_for(browser, "return document.querySelector('.sought')")
    assert browser.complaints() == []
    assert path
    assert place >= 0


CONTRAST = """
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (v) => (v <= 10 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
    const poor = [];
    const texts = "p, a, h1, h2, dt, dd, th, td, label, summary, figcaption, small, .faint, .note";
    for (const e of document.querySelectorAll(texts)) {
        if (!e.textContent.trim() || !e.offsetParent) continue;
        const [x, y] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((p, q) => q - p);
        if ((x + 0.05) / (y + 0.05) < 4.5) poor.push(e.outerHTML.slice(0, 80));
    }
    return poor;"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_can_be_read_on_a_phone_by_day_and_by_night(chromium_pages: NewPage, report: Path, scheme: str) -> None:
    browser = chromium_pages(viewport={"width": 400, "height": 800}, color_scheme=scheme)
    for page in every_page(report):
        browser.open(page)
        wait_for(browser, SETTLED)
        assert browser.run("return document.documentElement.scrollWidth") <= 400, page
        assert browser.run(CONTRAST) == [], page
    bright = browser.run(r"return getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number)[0] > 128")
    assert bright == (scheme == "light")


def test_every_picture_and_control_has_a_name(chromium_pages: NewPage, report: Path) -> None:
    browser = chromium_pages()
    for page in every_page(report):
        browser.open(page)
        wait_for(browser, SETTLED)
        nameless = browser.run("""
            const named = (e) => e.getAttribute("aria-label") || e.getAttribute("alt") || e.textContent.trim()
                || e.labels?.length || e.getAttribute("aria-hidden") || e.querySelector("[aria-label], [alt]");
            const all = document.querySelectorAll("img, svg:not(svg svg), button, input, a, canvas");
            return [...all].filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 90));""")
        assert nameless == [], page


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    """The report of pictures five times as high as wide, each of one tone."""
    folder = tmp_path_factory.mktemp("tall")
    (folder / "images").mkdir()
    for i in range(24):
        picture = np.full((150, 30), 60 if i % 2 else 200, np.uint8)
        (folder / "images" / f"{i:02d}.png").write_bytes(encoded(picture))
    ran = cli("run", folder / "images", "--out", folder / "o", "-k", 1, "--size", "30x150", "--memory", "1GiB")
    assert ran.code == 0, ran.err
    return folder / "o" / "report"


def test_tall_thumbnails_show_nothing_of_their_neighbours(chromium_pages: NewPage, tall: Path) -> None:
    browser = chromium_pages(viewport={"width": 900, "height": 900}, color_scheme="light")
    for page, tiles in (
        ("clusters/00.html", ".tile"),
        ("pca.html", "figure"),
        ("clusters/00.html", ".portrait figure"),
    ):
        browser.open(tall / page)
        wait_for(browser, SETTLED)
        for index in range(browser.page.locator(f"{tiles} svg:not(svg svg)").count()):
            shot = browser.page.locator(f"{tiles} svg:not(svg svg)").nth(index).screenshot()
            seen = np.asarray(Image.open(io.BytesIO(shot)).convert("L")).astype(int)[
                3:-3, 3:-3
            ]  # edges fall between pixels
            height, width = seen.shape
            shown = min(width, (height + 6) / 5)  # of the picture; the rest is ground
            beside = int((width - shown) / 2) - 2
            if beside < 3:
                continue
            rest = np.concatenate([seen[:, :beside], seen[:, -beside:]], axis=1)
            assert np.ptp(rest) <= 6, (page, index, "beside the picture is ground alone")
            assert abs(seen[height // 2, width // 2] - rest[0, 0]) > 20 or page == "pca.html", "the picture is there"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_the_map_can_be_told_from_the_page(chromium_pages: NewPage, report: Path, scheme: str) -> None:
    browser = chromium_pages(color_scheme=scheme)
    browser.open(report / "map.html")
    wait_for(browser, SETTLED)
    names = browser.run("return Array.from({length: 60}, (_, label) => page.mapColor(label))")
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    paper = [int(value) for value in re.findall(r"\d+", ground)]
    assert len(set(names)) == 60
    for name in names:
        dot = [0.85 * int(value) + 0.15 * below for value, below in zip(re.findall(r"\d+", name), paper, strict=True)]
        low, high = sorted((luminance(dot), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 2.98, name  # colours are whole numbers


def luminance(rgb: Sequence[float]) -> float:
    """Relative luminance of sRGB, 0 to 1. Source: WCAG 2.1."""
    shares = (value / 255 for value in rgb)
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_finger_scrolls_past_the_map_and_two_zoom(chromium_pages: NewPage, report: Path) -> None:
    browser = chromium_pages(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True)
    browser.open(report / "map.html")
    wait_for(browser, SETTLED)
    browser.run("document.getElementById('map').scrollIntoView({block: 'start'})")
    before = browser.run("return scrollY")
    devtools = browser.page.context.new_cdp_session(browser.page)

    def touch(kind: str, *places: tuple[int, int]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    browser.run("document.addEventListener('scrollend', () => { window.cameToRest = true; }, {once: true})")
    touch("touchStart", (195, 300))
    for step in range(1, 12):
        touch("touchMove", (195, 300 + 20 * step))
    touch("touchEnd")
    wait_for(browser, f"return scrollY < {before} - 100")
    assert browser.run("return document.getElementById('map').dataset.scale ?? '1.000'") == "1.000"
    # The page scrolls on for a while, on a busy machine for longer, and in steps that each come to rest.
    still = "window.still = window.seenAt === scrollY ? (window.still || 0) + 1 : 0; window.seenAt = scrollY;"
    wait_for(browser, f"{still} return window.cameToRest && window.still > 5")
    at = browser.run("return scrollY")
    touch("touchStart", (180, 400), (210, 400))
    for step in range(1, 8):
        touch("touchMove", (180 - 15 * step, 400), (210 + 15 * step, 400))
    touch("touchEnd")
    wait_for(browser, "return Number(document.getElementById('map').dataset.scale) > 1.5")
    assert browser.run("return scrollY") == at
    assert browser.complaints() == []


def test_the_page_on_k_says_what_to_type(chromium_pages: NewPage, report: Path) -> None:
    browser = chromium_pages(viewport={"width": 400, "height": 800})
    browser.open(report / "k.html")
    typed = browser.run("return document.querySelector('pre').textContent")
    assert f"bigcluster sweep {shlex.quote(str(report.parent))} -k 5:20" in typed
    assert " OUT" not in typed
