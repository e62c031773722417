"""One page per cluster: its pictures, and what the page says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bigcluster.outputs.folders import cluster_folder
from bigcluster.report.lists import MONTAGE_ROWS, PAGE_MEMBERS, Picks, Positions, Selection, link_of, write_members
from bigcluster.report.model import LINK_OF_ITS_NAME, NO_LINK, Model
from bigcluster.report.pages import Column, Pages
from bigcluster.report.texts import file_name, number, visible
from bigcluster.report.thumbnails import Sprite, Thumbnails, write_picture, write_sprite, write_strip
from bigcluster.store.row_source import spans

CLOSE = 0.05
"""A runner-up less than this share farther is a close call."""


@dataclass(frozen=True)
class Tile:
    """One picture on the page."""

    sprite: Sprite
    index: int
    name: str
    link: str | None
    note: str | None = None
    other: str | None = None
    """The runner-up, where that is the point."""
    margin: str | None = None

    @property
    def other_href(self) -> str:
        return f"{self.other}.html"


@dataclass(frozen=True)
class Maker:
    """Makes the pages of single clusters; they do not depend on each other."""

    folder: Path
    model: Model
    selection: Selection
    thumbnails: Thumbnails
    centers: NDArray[np.uint8]
    center_scores: NDArray[np.float64]
    pages: Pages

    def name(self, cluster: int) -> str:
        return cluster_folder(cluster, self.model.members.n_clusters)

    def make(self, cluster: int) -> Column:
        """Sprites, list and page of one cluster."""
        name, rows = self.name(cluster), self.model.members.of(cluster)
        write_members(self.folder, self.model, cluster, name)
        shown = rows[: self.selection.n_paged]
        lists = [
            write_sprite(self.folder, f"sprites/{name}/{page}.webp", self.thumbnails.read(shown[start:stop]))
            for page, (start, stop) in enumerate(spans(len(shown), PAGE_MEMBERS))
        ]
        strip = write_strip(self.folder, f"sprites/{name}/strip.webp", self.thumbnails.read(rows[:MONTAGE_ROWS]))
        center = self.centers[cluster]
        write_picture(self.folder, f"sprites/{name}/center.webp", center)
        picks = self.selection.picks[cluster]
        tiles = _Tiles(self, cluster, lists[0] if lists else None, picks)
        center_size = (center.shape[1], center.shape[0])
        self.pages.write("cluster", f"clusters/{name}.html", self._facts(cluster, tiles, picks, center_size))
        return Column(name, len(rows), strip, center_size)

    def _facts(self, cluster: int, tiles: _Tiles, picks: Picks, center_size: tuple[int, int]) -> dict[str, Any]:
        members, summary = self.model.members, self.model.summary
        name, rows = self.name(cluster), members.of(cluster)
        distance = members.distance[rows]
        low, middle, high = np.percentile(distance, [5, 50, 95])
        close = None if members.margin is None else int((members.margin[rows] < CLOSE * distance).sum())
        was = summary.get("nearest_previous")
        return {
            "name": name,
            "size": len(rows),
            "share": 100 * len(rows) / self.model.n_good,
            "previous": self.name(cluster - 1) if cluster > 0 else None,
            "next": self.name(cluster + 1) if cluster + 1 < members.n_clusters else None,
            "neighbour": self._neighbour(cluster),
            "medoid": tiles.at(0),
            "center": f"sprites/{name}/center.webp",
            "center_size": center_size,
            "quartiles": f"{number(middle)} in the middle, 90 % from {number(low)} to {number(high)}",
            "farthest_distance": number(distance[-1]),
            "close_calls": close,
            "was": None if was is None else was[cluster],
            "linked": any(self.model.listed.link_kinds[row] for row in rows[:PAGE_MEMBERS].tolist()),
            "sections": tiles.sections(picks),
            "has_margin": members.margin is not None,
            "n_shown": min(self.selection.n_paged, len(rows)),
            "page_members": PAGE_MEMBERS,
        }

    def _neighbour(self, cluster: int) -> str | None:
        """The cluster whose center is nearest."""
        centers = self.center_scores
        if len(centers) == 1:
            return None
        squares = np.einsum("ij,ij->i", centers, centers) - 2 * (centers @ centers[cluster])
        squares[cluster] = np.inf
        return self.name(int(squares.argmin()))


class _Tiles:
    """The tiles of one cluster's page: those on the first page of its list are in that page's sprite already."""

    def __init__(self, maker: Maker, cluster: int, first: Sprite | None, picks: Picks) -> None:
        self._maker, self._cluster = maker, cluster
        self._rows = maker.model.members.of(cluster)
        self._first, self._n_first = first, min(maker.selection.n_paged, PAGE_MEMBERS, len(self._rows))
        self._others = picks.all[picks.all >= self._n_first]
        if len(self._others):
            tiles = maker.thumbnails.read(self._rows[self._others])
            self._sprite = write_sprite(maker.folder, f"sprites/{maker.name(cluster)}/picks.webp", tiles)

    def at(self, position: int, *, runner_up: bool = False) -> Tile:
        maker, row = self._maker, int(self._rows[position])
        members, listed = maker.model.members, maker.model.listed
        if self._first is not None and position < self._n_first:
            sprite, index = self._first, position
        else:
            sprite, index = self._sprite, int(np.searchsorted(self._others, position))
        name, link = visible(listed.paths[row]), _href(maker.model, row, maker.name(self._cluster))
        if runner_up and members.runner_up is not None and members.margin is not None:
            other = maker.name(int(members.runner_up[row]))
            return Tile(sprite, index, name, link, other=other, margin=number(members.margin[row]))
        return Tile(sprite, index, name, link, note=number(members.distance[row]))

    def sections(self, picks: Picks) -> list[dict[str, Any]]:
        found = [
            _section(
                "nearest", "Nearest", "The most typical ones, by distance to the center.", self._all(picks.nearest)
            ),
            _section(
                "borderline",
                "Borderline",
                "Those that could have gone either way: the runner-up and how much farther it is.",
                [self.at(p, runner_up=True) for p in picks.borderline.tolist()],
            ),
            _section("farthest", "Farthest", "The least typical ones: outliers come first.", self._all(picks.farthest)),
            _section("sample", "Random sample", "Drawn by chance, the nearest first.", self._all(picks.sample)),
        ]
        return [section for section in found if section["tiles"]]

    def _all(self, positions: Positions) -> list[Tile]:
        return [self.at(position) for position in positions.tolist()]


def _section(name: str, title: str, what: str, tiles: list[Tile]) -> dict[str, Any]:
    return {"id": name, "title": title, "what": what, "tiles": tiles}


def _href(model: Model, row: int, folder: str) -> str | None:
    """From clusters/<name>.html to the image under OUT/clusters/."""
    link = link_of(model, row)
    if link == NO_LINK:
        return None
    if link == LINK_OF_ITS_NAME:
        link = f"{folder}/{quote(os.fsencode(file_name(model.listed.paths[row])))}"
    return f"../../clusters/{link}"
