"""This job checks that OUT is unchanged: digests, counts, labels against the store, folders against labels.csv, the
model.

It names each damaged file and its stage, and deletes the marks, so that the next run makes just these files again. The
images themselves are not read: a changed image is a note.
"""

from __future__ import annotations

import errno
import glob
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bigcluster import outdir
from bigcluster.catalog import root_of
from bigcluster.catalog.manifest import MANIFEST_SUFFIXES
from bigcluster.config import MANIFOLDS, Settings, read_toml
from bigcluster.errors import ConfigError, DamagedError, StoreError
from bigcluster.files.layout import ARRAYS, MARKS, OURS
from bigcluster.files.toml import parse_toml
from bigcluster.outdir import results
from bigcluster.outdir.owned import OwnedList
from bigcluster.outdir.results import ResultFiles
from bigcluster.outdir.tree import OwnedTree
from bigcluster.outputs import folders
from bigcluster.pipeline.audit import folders as entries
from bigcluster.pipeline.audit import model as stages
from bigcluster.pipeline.audit import tables as files
from bigcluster.pipeline.job import Job, attest_workers, open_job, with_workers
from bigcluster.planning.plan import check_on_cluster
from bigcluster.planning.stage_names import (
    CLUSTER,
    COMPONENTS,
    FEATURES,
    INGEST,
    MANIFOLD,
    NEIGHBORS,
    NORMS,
    NOVELTY,
    OUTPUT,
    REDUCE,
    REPORT,
    SWEEP,
)
from bigcluster.planning.verification import plan_verify
from bigcluster.profiling import publish as profiles
from bigcluster.report import write as report
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.resources import Resources
from bigcluster.runtime.sampler import Caller
from bigcluster.stages.ingest import RECIPE
from bigcluster.stages.reuse import PREVIOUS
from bigcluster.store import Damage, Inventory, Marks, Store, metadata, take_inventory
from bigcluster.store.checked_files import GONE

QUICK_FILES = 64
"""Number of chunks that a quick check reads. A chunk has at most 4 MiB, so a quarter of a GiB is read."""
QUICK_ENTRIES = 1000
"""Number of entries under clusters/ that a quick check examines. Chosen, not measured."""
SETTINGS = "settings"
ORDER = (
    INGEST,
    FEATURES,
    REDUCE,
    MANIFOLD,
    COMPONENTS,
    NORMS,
    SWEEP,
    NEIGHBORS,
    CLUSTER,
    NOVELTY,
    OUTPUT,
    REPORT,
    profiles.FOLDER,
)
_MADE_BY = {
    RECIPE: INGEST,
    PREVIOUS: INGEST,
    results.MARK: OUTPUT,
    folders.CREATED: OUTPUT,
    report.CREATED: REPORT,
    profiles.CREATED: profiles.FOLDER,
}
"""Marks that are not stages, and the stage that writes them. Metadata and run.toml are restored from their marks, so no
stage is computed again for them."""


def verify(
    settings: Settings,
    resources: Resources,
    *,
    quick: bool = False,
    listener: Listener = silent,
    caller: Caller | None = None,
) -> dict[str, Any]:
    """Check the files of OUT and return `ok`, `damaged` (file, stage, what), `redo`, `notes` and how much was read.

    quick : read a sample of the chunks and examine a sample of the links.
    It deletes only the marks of damaged files, and restores a run.toml that cannot be read. Raises StoreError where OUT
    holds no store or is in use, and OutError for a store of another format.
    """
    job = open_job(settings, resources, listener, caller)
    with ExitStack() as stack:
        stack.enter_context(job.stages.sampler)
        outdir.check_is_out(job.out, or_damaged=True)  # any other folder is refused
        outdir.check_places(job.out)
        writable = _lock(stack, job)
        if resources.joined and not writable:
            raise StoreError(f"{job.out} cannot be written, as workers must: leave out --workers and --scheduler")
        projected_bytes = None
        if resources.joined:
            job = with_workers(job, stack)
            plan = plan_verify(job.settings, job.resources)
            projected_bytes = check_on_cluster(plan, job.resources, otherwise="fewer --workers")
        if not (job.out / ARRAYS).is_dir():
            raise StoreError(f"{job.out} holds no store; run `bigcluster run IMAGES --out {job.out} -k 10` first")
        attest_workers(job, stack)
        with job.stages.measure("verify", projected_bytes):
            try:
                inventory, damaged, notes = _look(job, quick=quick, writable=writable)
            except DamagedError:  # in a chunk outside of the sample: all digests show which one
                inventory, damaged, notes = _look(job, quick=False, writable=writable)
            if writable:
                inventory.drop(Marks(job.out))
                _unregister(job.out, damaged)
    if inventory.leftovers:
        notes.append(f"{len(inventory.leftovers)} leftover files of an interrupted run; the next run removes them")
    if inventory.n_foreign:
        notes.append(f"{inventory.n_foreign} files in {ARRAYS} and {OURS} are not of bigcluster; they are left alone")
    return {
        "ok": not damaged,
        "damaged": [{"file": damage.file, "stage": damage.stage, "what": damage.what} for damage in damaged],
        "redo": [stage for stage in ORDER if any(damage.stage == stage for damage in damaged)],
        "notes": notes,
        "sampled": quick,
        "files": inventory.n_files,
        "bytes_read": inventory.n_bytes,
        "stages": job.stages.facts,
    }


def _look(job: Job, *, quick: bool, writable: bool) -> tuple[Inventory, list[Damage], list[str]]:
    """Return the inventory of the store, all damage in OUT, and notes. Raises DamagedError where a sample missed
    damage."""
    inventory, notes = _take_inventory(job, quick), list[str]()
    if not results.is_finished(Marks(job.out)):
        inventory = replace(inventory, damaged=[damage for damage in inventory.damaged if not _is_moving(damage)])
    damaged = [_of_stage(damage) for damage in inventory.damaged]
    if writable:
        _repair_metadata(job.out, inventory)
    if writable or not inventory.damaged:
        damaged += _settings(job.out, put_back=writable)
        store = Store(job.out, create=False, most_bytes=job.remaining_bytes)
        damaged += _audit(job, store, {damage.stage for damage in damaged}, quick, notes)
    else:
        notes.append("OUT cannot be written: what depends on the damaged files was not looked at")
    return inventory, damaged, notes


def _is_moving(damage: Damage) -> bool:
    """Return whether a killed run was moving these rows of pixels: they have two marks, one of them valid; no
    damage."""
    return damage.what == GONE and damage.stage in (INGEST, PREVIOUS)


def _root(images: str) -> Path:
    """Return the folder to which paths are relative, even where it is missing."""
    path = Path(images)
    is_folder = path.suffix.lower() not in MANIFEST_SUFFIXES and not glob.has_magic(images)
    return path if is_folder and not path.exists() else root_of(images)


def _lock(stack: ExitStack, job: Job) -> bool:
    """Lock OUT while it is read, and return whether it is writable: an archive on a read-only disk needs no lock."""
    try:
        stack.enter_context(outdir.locked(job.out, job.progress.note))
    except StoreError:
        raise
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        return False
    return True


def _take_inventory(job: Job, quick: bool) -> Inventory:
    with job.progress.stage("verify", 0, "files"):
        return take_inventory(
            job.out,
            sample=QUICK_FILES if quick else None,
            cluster=job.cluster,
            most_bytes=job.remaining_bytes // 2,
            on_total=lambda n_files: job.progress.at(0, n_files),
        )


def _of_stage(damage: Damage) -> Damage:
    """Return the damage with the stage that makes the file."""
    return replace(damage, stage=_MADE_BY.get(damage.stage, damage.stage))


def _repair_metadata(out: Path, inventory: Inventory) -> None:
    """Restore damaged metadata from its marks, so that arrays can be opened."""
    store = Store(out)
    for damage in inventory.damaged:
        if damage.mark is not None and damage.stage == metadata.MARK:
            store.repair_metadata(damage.mark[1])


def _unregister(out: Path, damaged: list[Damage]) -> None:
    """Remove damaged files outside of the store from the lists of owned files, and delete marks of inconsistent stages.

    The next run then makes these files again and does not touch what is there. By its size and time alone, an entry or
    a page could still count as the file that was written.
    """
    marks, entries_of = Marks(out), f"{folders.FOLDER}/"
    if any(damage.stage == REPORT for damage in damaged):
        marks.remove(REPORT)
    for stage in (INGEST, FEATURES, REDUCE, MANIFOLD, NEIGHBORS, CLUSTER):  # undamaged files that do not fit each other
        if any(damage.stage == stage and damage.mark is None for damage in damaged):
            marks.remove(stage)
    if any(damage.file == f"{MARKS}/{RECIPE}" for damage in damaged):
        marks.remove(RECIPE)
    names = [damage.file.removeprefix(entries_of) for damage in damaged if damage.file.startswith(entries_of)]
    owned = OwnedList(out, folders.CREATED)
    made = owned.read() if names else None
    if made is not None:
        owned.write(made.without(names))


def _settings(out: Path, *, put_back: bool) -> Iterator[Damage]:
    """Yield damage where run.toml cannot be read, and restore it. It may be edited, or come from a call that did not
    end."""
    try:
        read_toml(out / outdir.RUN_TOML)
    except ConfigError as error:
        if put_back:
            ResultFiles(out).put_settings_back()
        yield Damage(outdir.RUN_TOML, SETTINGS, f"cannot be read: {error.__cause__ or error}")


def _audit(job: Job, store: Store, missing: set[str], quick: bool, notes: list[str]) -> Iterator[Damage]:
    """Yield the undamaged files that do not fit each other. Changes of the images are added to the notes."""
    stored = stages.load(store)
    finished = results.is_finished(store.marks)
    if finished:
        is_there = {INGEST: stored.n_blocks > 0}
        if stored.n_blocks and INGEST not in missing:
            is_there[RECIPE] = stored.recipe is not None
        if stored.recipe is not None and FEATURES not in missing:
            is_there[CLUSTER] = stored.clustered is not None
        if stored.clustered is not None and stored.clustered.payload["reduction"] != "none":
            is_there[REDUCE] = stored.fitted is not None
        if stored.clustered is not None and stored.clustered.payload["reduction"] in MANIFOLDS:
            is_there[MANIFOLD] = stored.embedded is not None
        for stage in (stage for stage, there in is_there.items() if not there and stage not in missing):
            missing = missing | {_MADE_BY.get(stage, stage)}
            yield _of_stage(Damage(f"{MARKS}/{stage}", stage, "is missing, or is not of this state of OUT"))
    else:
        notes.append("the last run did not come to its end; the same command resumes")
    for damage in stages.audit(store, stored, missing):
        missing = missing | {damage.stage}
        yield _of_stage(damage)
    if finished and not missing & {INGEST, CLUSTER} and stored.clustered is not None:
        # damaged arrays cannot be compared
        yield from files.audit(job.out, store, replace(stored, fitted=None) if REDUCE in missing else stored)
        images = parse_toml(results.listed_settings(store.marks)).get("images")
        yield from _pages(job, store, missing, quick)
        if images is None:
            yield Damage(f"{MARKS}/{results.MARK}", OUTPUT, "names no images")
            return
        sample = QUICK_ENTRIES if quick else None
        seen = entries.audit(job.out, _root(images), folders.created(job.out), sample=sample)
        notes += seen.notes()
        yield from seen.damaged


def _pages(job: Job, store: Store, missing: set[str], quick: bool) -> Iterator[Damage]:
    """Compare the files of the report and of a profile with the lists of written files. A quick check reads none of
    them: it compares their sizes."""
    for stage, created, command in (
        (REPORT, report.CREATED, "bigcluster report OUT"),
        (profiles.FOLDER, profiles.CREATED, "bigcluster profile"),
    ):
        tree = OwnedTree.of(job.out, stage, created)
        if stage in missing or tree.owned.read() is None:
            continue
        if not tree.is_whole():
            yield Damage(tree.folder, stage, f"lacks files, or has files of another size; `{command}` writes it again")
        if not quick:
            yield from (Damage(f"{tree.folder}/{file}", stage, what) for file, what in tree.damaged())
