"""The pages of single clusters: their sprites, their lists of members, and the values of their template."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bigcluster.outputs.folders import cluster_folder
from bigcluster.report.lists import MONTAGE_ROWS, PAGE_MEMBERS, Picks, Positions, Selection, write_members
from bigcluster.report.model import LINK_OF_ITS_NAME, NO_LINK, Members, Model
from bigcluster.report.pages import Column, Pages
from bigcluster.report.texts import file_name, number, visible
from bigcluster.report.thumbnails import Sprite, Thumbnails, write_picture, write_sprite, write_strip
from bigcluster.store.row_source import spans

CLOSE = 0.05
"""A member is a close call where the runner-up is farther by less than this share. Chosen, not measured; the template
cluster.html.j2 says it as 5 %."""


@dataclass(frozen=True)
class Tile:
    """One picture on the page, with its caption."""

    sprite: Sprite
    index: int
    """Place of the picture in the sprite, counted from 0."""
    name: str
    link: str | None
    """URL of the image, relative to the page. None where clusters/ has no entry for it."""
    note: str | None = None
    """The distance to the center."""
    other: str | None = None
    """Name of the runner-up's cluster. Only tiles of the section "Borderline" have it."""
    margin: str | None = None
    """How much farther the runner-up is, or how many of the neighbors fewer are in it, as text."""

    @property
    def other_href(self) -> str:
        """Return the URL of the runner-up's page, relative to this page."""
        return f"{self.other}.html"


@dataclass(frozen=True)
class ClusterPageWriter:
    """Writes the pages of single clusters. The pages do not depend on each other, and may be written in parallel."""

    folder: Path
    model: Model
    selection: Selection
    thumbnails: Thumbnails
    centers: NDArray[np.uint8]
    """(k, h, w) or (k, h, w, 3), the pictures that stand for the centers."""
    center_scores: NDArray[np.float64]
    """(k, r), the centers in the space of the scores."""
    pages: Pages
    centers_are_pictures: bool
    """Whether `centers` are the centers themselves; otherwise they are the mean pictures of the clusters."""

    def name(self, cluster: int) -> str:
        """Return the name of the cluster's folder and page."""
        return cluster_folder(cluster, self.model.members.n_clusters)

    def make(self, cluster: int) -> Column:
        """Write sprites, list of members and page of one cluster; return its column of the montage."""
        name, rows = self.name(cluster), self.model.members.of(cluster)
        write_members(self.folder, self.model, cluster, name)
        listed_rows = rows[: self.selection.n_paged]
        lists = [
            write_sprite(self.folder, f"sprites/{name}/{page}.webp", self.thumbnails.read(listed_rows[start:stop]))
            for page, (start, stop) in enumerate(spans(len(listed_rows), PAGE_MEMBERS))
        ]
        strip = write_strip(self.folder, f"sprites/{name}/strip.webp", self.thumbnails.read(rows[:MONTAGE_ROWS]))
        center = self.centers[cluster]
        write_picture(self.folder, f"sprites/{name}/center.webp", center)
        picks = self.selection.picks[cluster]
        tiles = _Tiles(self, cluster, lists[0] if lists else None, picks)
        center_size = (center.shape[1], center.shape[0])
        self.pages.write("cluster", f"clusters/{name}.html", self._facts(cluster, tiles, picks, center_size))
        return Column(name, len(rows), strip, center_size, self._suggested(cluster))

    def _suggested(self, cluster: int) -> str:
        """Return the name that the classes of the images suggest; "" without one."""
        classes = self.model.classes
        return "" if classes is None else visible(classes.name(cluster))

    def _facts(self, cluster: int, tiles: _Tiles, picks: Picks, center_size: tuple[int, int]) -> dict[str, Any]:
        members, summary = self.model.members, self.model.summary
        name, rows = self.name(cluster), members.of(cluster)
        distance = members.distance[rows]
        low, middle, high = np.percentile(distance, [5, 50, 95])
        limit = 0.0 if members.of_votes else CLOSE * distance
        close = None if members.margin is None else int((members.margin[rows] < limit).sum())
        was = summary.get("nearest_previous")
        return {
            "name": name,
            "suggested": self._suggested(cluster),
            "classes": [] if self.model.classes is None else self.model.classes.of(cluster),
            "size": len(rows),
            "share": 100 * len(rows) / self.model.n_good,
            "previous": self.name(cluster - 1) if cluster > 0 else None,
            "next": self.name(cluster + 1) if cluster + 1 < members.n_clusters else None,
            "neighbour": self._neighbour(cluster),
            "medoid": tiles.at(0),
            "center": f"sprites/{name}/center.webp",
            "center_size": center_size,
            "center_alt": "The picture of the center" if self.centers_are_pictures else "The mean picture",
            "center_caption": "Center, as a picture" if self.centers_are_pictures else "Mean of its pictures",
            "quartiles": f"{number(middle)} in the middle, 90 % from {number(low)} to {number(high)}",
            "farthest_distance": number(distance[-1]),
            "close_calls": close,
            "of_votes": members.of_votes,
            "was": None if was is None else was[cluster],
            "linked": any(self.model.listed.link(row) for row in rows[:PAGE_MEMBERS].tolist()),
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
    """The tiles of one cluster's page.

    Members on the first page of the list are cut out of that page's sprite. The others get a sprite of their own.
    """

    def __init__(self, writer: ClusterPageWriter, cluster: int, first: Sprite | None, picks: Picks) -> None:
        self._writer, self._cluster = writer, cluster
        self._rows = writer.model.members.of(cluster)
        self._first, self._n_first = first, min(writer.selection.n_paged, PAGE_MEMBERS, len(self._rows))
        self._others = picks.all[picks.all >= self._n_first]
        if len(self._others):
            tiles = writer.thumbnails.read(self._rows[self._others])
            self._sprite = write_sprite(writer.folder, f"sprites/{writer.name(cluster)}/picks.webp", tiles)

    def at(self, position: int, *, runner_up: bool = False) -> Tile:
        """Return the tile of the member at a position; its caption names the distance, or with `runner_up` that one."""
        writer, row = self._writer, int(self._rows[position])
        members, listed = writer.model.members, writer.model.listed
        if self._first is not None and position < self._n_first:
            sprite, index = self._first, position
        else:
            sprite, index = self._sprite, int(np.searchsorted(self._others, position))
        name, link = visible(listed.path(row)), _href(writer.model, row, writer.name(self._cluster))
        if runner_up and members.runner_up is not None and members.margin is not None:
            other = writer.name(int(members.runner_up[row]))
            return Tile(sprite, index, name, link, other=other, margin=_margin_in_words(members, row))
        return Tile(sprite, index, name, link, note=number(members.distance[row]))

    def sections(self, picks: Picks) -> list[dict[str, Any]]:
        """Return the sections that have any tiles, as values of the template."""
        of_votes = self._writer.model.members.of_votes
        sections = [
            _section(
                "nearest", "Nearest", "The most typical ones, by distance to the center.", self._all(picks.nearest)
            ),
            _section(
                "borderline",
                "Borderline",
                "Those that could have gone either way: the runner-up and how much "
                + ("smaller its share of their neighbors is." if of_votes else "farther it is."),
                [self.at(p, runner_up=True) for p in picks.borderline.tolist()],
            ),
            _section("farthest", "Farthest", "The least typical ones: outliers come first.", self._all(picks.farthest)),
            _section("sample", "Random sample", "Drawn by chance, the nearest first.", self._all(picks.sample)),
        ]
        return [section for section in sections if section["tiles"]]

    def _all(self, positions: Positions) -> list[Tile]:
        return [self.at(position) for position in positions.tolist()]


def _margin_in_words(members: Members, row: int) -> str:
    assert members.margin is not None
    margin = float(members.margin[row])
    if not members.of_votes:
        return f"{number(margin)} farther"
    return f"{abs(margin):.0%} {'more' if margin < 0 else 'fewer'} of its neighbors"


def _section(name: str, title: str, what: str, tiles: list[Tile]) -> dict[str, Any]:
    return {"id": name, "title": title, "what": what, "tiles": tiles}


def _href(model: Model, row: int, folder: str) -> str | None:
    """The URL of an image under OUT/clusters/, relative to a page report/clusters/<name>.html."""
    link = model.listed.link(row)
    if link == NO_LINK:
        return None
    if link == LINK_OF_ITS_NAME:
        link = f"{folder}/{quote(os.fsencode(file_name(model.listed.path(row))))}"
    return f"../../clusters/{link}"
