// What the pages do. Data comes as script files that call bigclusterTake with a name and JSON: a page opened from disk
// may not fetch. Text from data is only ever set as text.
"use strict";

const root = document.body.dataset.root;
const digits = Number(document.body.dataset.digits);
const [tileWidth, tileHeight] = document.body.dataset.tile.split(" ").map(Number);
const SPRITE_COLUMNS = 20;

// -- data, piece by piece

const pieces = new Map();

window.bigclusterTake = (name, value) => pieces.get(name)?.take(value);

/** The data of one script file, loaded once. */
function piece(name) {
  if (!pieces.has(name)) {
    const entry = {};
    entry.value = new Promise((take, refuse) => {
      entry.take = take;
      const script = document.createElement("script");
      script.src = `${root}data/${name}.js`;
      script.onerror = () => {
        pieces.delete(name);
        refuse(new Error(`${name} is missing from this report`));
      };
      document.head.append(script);
    });
    pieces.set(name, entry);
  }
  return pieces.get(name).value;
}

// -- small things

/** Control characters as their pictures: texts.visible in Python is the same rule. */
const visible = (text) =>
  text.replace(/[\u0000-\u001f\u007f]/g, (c) => String.fromCharCode(c === "\u007f" ? 0x2421 : 0x2400 + c.charCodeAt(0)));

const fileName = (path) => path.slice(path.lastIndexOf("/") + 1);
const clusterName = (label) => String(label).padStart(digits, "0");

/** Four significant digits: texts.number in Python is the same rule. */
const shownNumber = (number) => {
  const rounded = Number(number.toPrecision(4));
  const plain = number === 0 || (Math.abs(number) >= 1e-4 && Math.abs(number) < 1e9);
  return plain ? rounded.toLocaleString("en", { maximumFractionDigits: 10 }) : String(rounded);
};


function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Tile `index` of a sprite of `tiles` tiles. */
function picture(href, index, tiles, label) {
  const columns = Math.min(SPRITE_COLUMNS, tiles);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const tile = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const image = document.createElementNS("http://www.w3.org/2000/svg", "image");
  const x = (index % columns) * tileWidth;
  const y = Math.floor(index / columns) * tileHeight;
  svg.setAttribute("viewBox", `0 0 ${tileWidth} ${tileHeight}`);
  // The inner one shows nothing outside of the tile, however much room the outer one has beside it.
  tile.setAttribute("viewBox", `${x} ${y} ${tileWidth} ${tileHeight}`);
  tile.setAttribute("width", tileWidth);
  tile.setAttribute("height", tileHeight);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  image.setAttribute("href", href);
  image.setAttribute("width", columns * tileWidth);
  image.setAttribute("height", Math.ceil(tiles / columns) * tileHeight);
  tile.append(image);
  svg.append(tile);
  return svg;
}

// -- lists by page

/** Buttons for the pages of a list; `show(page)` draws one. Returns a function that goes to a page. */
function paged(nPages, show) {
  const pager = document.getElementById("pager");
  let page = 0;
  const back = element("button", { type: "button", id: "page-back" }, "← back");
  const on = element("button", { type: "button", id: "page-on" }, "on →");
  const where = element("span", { id: "page-where", "aria-live": "polite" });
  const go = async (wanted) => {
    page = Math.min(Math.max(wanted, 0), nPages - 1);
    back.disabled = page === 0;
    on.disabled = page === nPages - 1;
    where.textContent = `page ${(page + 1).toLocaleString("en")} of ${nPages.toLocaleString("en")}`;
    await show(page);
  };
  back.onclick = () => go(page - 1);
  on.onclick = () => go(page + 1);
  if (nPages > 1) pager.replaceChildren(back, where, on);
  return go;
}

function memberTile(row, page, index, list) {
  const [path, distance, runnerUp, margin, width, height, link] = row;
  const { cluster, shown, rows, page: size } = list.dataset;
  const name = visible(path);
  const figure = element("figure", { class: "tile" });
  const tiles = Math.min(size, Math.min(shown, rows) - page * size);
  if (index < tiles) {
    let place = figure;
    if (link !== 0) {
      const below = link === 1 ? `${cluster}/${encodeURIComponent(fileName(path))}` : link;
      place = element("a", { href: `${root}../clusters/${below}`, title: name });
      figure.append(place);
    }
    place.append(picture(`${root}sprites/${cluster}/${page}.webp`, index, tiles, name));
  }
  const caption = element("figcaption", {}, element("bdi", { title: name }, name));
  let note = shownNumber(distance);
  if (runnerUp !== null) note += `; ${clusterName(runnerUp)} ${margin < 0 ? "" : "+"}${shownNumber(margin)}`;
  caption.append(element("span", { class: "faint" }, note), element("span", { class: "faint" }, `${width} × ${height}`));
  figure.append(caption);
  return figure;
}

function membersList(list) {
  const size = Number(list.dataset.page);
  const nPages = Math.ceil(list.dataset.rows / size);
  const go = paged(nPages, async (page) => {
    const rows = await piece(`members/${list.dataset.cluster}/${page}`);
    list.replaceChildren(...rows.map((row, index) => memberTile(row, page, index, list)));
  });
  const follow = async () => {
    const sought = /^#member-(\d+)$/.exec(location.hash);
    const place = sought ? Math.min(Number(sought[1]), list.dataset.rows - 1) : 0;
    await go(Math.floor(place / size));
    if (sought) {
      const tile = list.children[place % size];
      tile.classList.add("sought");
      tile.scrollIntoView({ block: "center" });
    }
  };
  window.addEventListener("hashchange", follow);
  follow();
}

function failedList(body) {
  const size = Number(body.dataset.page);
  const go = paged(Math.ceil(body.dataset.rows / size), async (page) => {
    const rows = await piece(`failed/${page}`);
    const cell = (text) => element("td", {}, element("bdi", {}, visible(text)));
    body.replaceChildren(...rows.map((row) => element("tr", {}, ...row.map(cell))));
  });
  const sought = /^#file-(\d+)$/.exec(location.hash);
  go(sought ? Math.floor(Number(sought[1]) / size) : 0);
}

// -- search

const MOST_FOUND = 50;

/** What is compared: search.folded in Python is the same rule. */
const folded = (name) => name.toLowerCase().normalize("NFC");

/** Up to MOST_FOUND rows whose file name begins so, from as few pieces as hold them. */
async function find(begin) {
  const index = await piece("search/index");
  let low = 0;
  let high = index.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (index[middle] < begin) low = middle + 1;
    else high = middle;
  }
  const found = [];
  for (let at = Math.max(low - 1, 0); at < index.length && found.length <= MOST_FOUND; at += 1) {
    if (at >= low && !index[at].startsWith(begin)) break;
    const rows = await piece(`search/${at}`);
    found.push(...rows.filter((row) => folded(fileName(row[0])).startsWith(begin)));
  }
  return found;
}

function searchBox(input, box) {
  let asked = 0;
  const look = async () => {
    const begin = folded(input.value);
    const mine = ++asked;
    if (!begin) {
      box.hidden = true;
      return;
    }
    const found = await find(begin);
    if (mine !== asked) return; // typed on
    const links = found.slice(0, MOST_FOUND).map(([path, label, place]) => {
      const failed = label < 0;
      const page = failed ? `failures.html#file-${place}` : `clusters/${clusterName(label)}.html#member-${place}`;
      const where = failed ? "could not be read" : `cluster ${clusterName(label)}`;
      return element("a", { href: root + page }, element("bdi", {}, visible(path)), element("span", {}, where));
    });
    const more = found.length > MOST_FOUND ? `the first ${MOST_FOUND}; type more letters` : "";
    const line = found.length ? more : "no file name begins so";
    box.dataset.of = begin;
    box.replaceChildren(...links, ...(line ? [element("p", {}, line)] : []));
    box.hidden = false;
  };
  input.addEventListener("input", look);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") box.querySelector("a")?.click();
    if (event.key === "ArrowDown") box.querySelector("a")?.focus();
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (step) {
      (document.activeElement[step] ?? input).focus();
      event.preventDefault();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") box.hidden = true;
    if (event.key === "/" && document.activeElement !== input) {
      event.preventDefault();
      input.focus();
    }
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".search")) box.hidden = true;
    else if (event.target.closest("a")) box.hidden = true;
  });
}

// -- montage and keyboard

function montage(columns) {
  document.getElementById("blur").addEventListener("change", (event) => {
    columns.classList.toggle("blurred", event.target.checked);
  });
  document.getElementById("size").addEventListener("input", (event) => {
    columns.style.setProperty("--thumb", `${event.target.value}px`);
  });
}

/** Left and right go through the clusters, unless somebody is typing. */
function arrows(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, canvas")) return;
  const id = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
  document.getElementById(id)?.click();
}

/** What map.js uses too. */
window.bigcluster = { root, clusterName, element, folded, picture, piece, shownNumber, visible };

searchBox(document.getElementById("search"), document.getElementById("found"));
document.addEventListener("keydown", arrows);
for (const [id, start] of [["members", membersList], ["failed", failedList], ["montage", montage]]) {
  const place = document.getElementById(id);
  if (place) start(place);
}
