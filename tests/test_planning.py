"""Plans: pure arithmetic that never shrinks when the work grows, and refuses what cannot fit, with a way out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, Cli, write_pictures
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.config import settings_from
from bigcluster.errors import ConfigError, MemoryBudgetError
from bigcluster.planning import footprint
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.planning.plan import Pictures, Plan, check_on_cluster
from bigcluster.planning.planner import make_plan, replan
from bigcluster.planning.prediction import plan_predict
from bigcluster.planning.stages import incremental_batch
from bigcluster.runtime.resources import Resources
from bigcluster.solvers.kmeans.footprint import project_lloyd_bytes
from bigcluster.units import GIB, MIB, parse_bytes, parse_count, show_bytes

numbers = st.integers(1, 200_000)
sides = st.integers(1, 512)
budgets = st.integers(400, 16_000).map(lambda mib: mib * MIB)


def plan_of(n_images: int, size: tuple[int, int], budget: int, threads: int = 2, **values: Any) -> Plan:
    settings = settings_from({"k": 10, "components": 5, "variance": None, **values})
    return make_plan(settings, n_images, size, Resources(budget, threads))


@given(numbers, sides, sides, budgets)
def test_a_plan_that_passes_keeps_the_budget_in_every_stage(n: int, width: int, height: int, budget: int) -> None:
    plan = plan_of(n, (width, height), budget)
    try:
        plan.check()
    except MemoryBudgetError:
        assert plan.projected_bytes > budget
    else:
        assert all(stage.projected_bytes <= budget for stage in plan.stages)


@given(numbers, numbers, sides, sides)
def test_more_images_never_need_less_for_ingest_and_clustering(n: int, more: int, width: int, height: int) -> None:
    few, many = (plan_of(count, (width, height), 64 * GIB) for count in sorted((n, n + more)))
    for stage in ("ingest", "cluster"):
        assert few.stage(stage).projected_bytes <= many.stage(stage).projected_bytes


def test_only_pca_is_planned_with_the_library_of_its_products() -> None:
    """k-means needs none, however long its passes are."""
    few, many = (plan_of(n, (64, 64), GIB, reduce="none", report={"write": False}) for n in (6000, 7000))
    for stage in ("ingest", "output"):
        assert many.stage(stage).projected_bytes - few.stage(stage).projected_bytes < MIB
    reduced = plan_of(7000, (64, 64), GIB, report={"write": False})
    more = reduced.stage("output").projected_bytes - many.stage("output").projected_bytes
    assert footprint.PRODUCTS_BYTES <= more < footprint.PRODUCTS_BYTES + MIB


def test_clustering_by_dask_ml_is_planned_with_dask_ml_also_without_pca() -> None:
    ours, theirs = (
        plan_of(600, (64, 64), 64 * GIB, reduce="none", **{"kmeans.algorithm": name}) for name in ("lloyd", "dask-ml")
    )
    more = theirs.stage("output").projected_bytes - ours.stage("output").projected_bytes
    assert more == footprint.DASK_ML_BYTES


@given(st.integers(2, 5000), st.integers(1, 500), st.integers(1, 500))
def test_more_clusters_never_need_less(n: int, k: int, more: int) -> None:
    few, many = (plan_of(n, (64, 64), 64 * GIB, k=count) for count in (k, k + more))
    assert few.stage("cluster").projected_bytes <= many.stage("cluster").projected_bytes


@given(numbers, sides, st.integers(1, 1000), st.integers(64, 64_000))
def test_the_batch_of_the_incremental_solver_fits_and_holds_its_rank(n: int, side: int, rank: int, mib: int) -> None:
    n_values, usable = side * side, mib * MIB
    batch_rows, kept = incremental_batch(n, n_values, None, usable)
    assert 1 <= kept <= min(n, n_values)
    assert kept <= batch_rows <= n
    if footprint.incremental_rows(n_values, usable) >= 2:
        assert footprint.project_incremental_bytes(batch_rows=batch_rows, rank=kept, n_values=n_values) <= usable
    batch_rows, kept = incremental_batch(n, n_values, min(rank, n), usable)
    assert kept == min(rank, n) <= batch_rows


def test_a_refusal_says_need_budget_and_a_way_out_that_works() -> None:
    plan = plan_of(8190, (300, 430), 200 * MIB, components=800)
    with pytest.raises(MemoryBudgetError, match=r"stage '\w+' needs .* the budget is 200 MiB") as refused:
        plan.check()
    way_out = re.search(r"--memory (\w+)", str(refused.value))
    assert way_out is not None
    plan_of(8190, (300, 430), parse_bytes(way_out[1]), components=800).check()


def test_the_solver_goes_by_the_data_and_never_by_the_budget() -> None:
    for size, n, solver in (
        ((300, 430), 8190, "gram"),
        ((64, 64), 60_000, "covariance"),
        ((300, 430), 10**5, "subspace"),
    ):
        solvers = {plan_of(n, size, budget * MIB).stage("reduce").solver for budget in (512, 4096, 65_536)}
        assert solvers == {solver}


def test_a_sweep_is_planned_beside_the_fit() -> None:
    plan = plan_of(1000, (64, 64), GIB, k="5:20")
    assert [stage.stage for stage in plan.stages] == ["ingest", "reduce", "sweep", "cluster", "output", "report"]
    assert plan.stage("sweep").projected_bytes >= plan.stage("cluster").projected_bytes
    assert [stage.stage for stage in plan_of(1000, (64, 64), GIB, reduce="none").stages] == [
        "ingest",
        "cluster",
        "output",
        "report",
    ]


# -- projections never shrink as the work grows


grown = st.integers(1, 5000)


@given(st.integers(1, 4096), st.integers(1, 300_000), st.integers(1, 2), st.integers(1, 64), grown)
def test_ingest_holds_more_with_larger_blocks(rows: int, values: int, in_flight: int, threads: int, by: int) -> None:
    def projected(**more: int) -> int:
        given = {"block_rows": rows, "n_values": values, "in_flight": in_flight, "threads": threads}
        given |= {"decode_bytes": 1 << 20, **more}
        return footprint.project_ingest_bytes(row_bytes=given["n_values"], **given)

    for name, value in {"block_rows": rows, "n_values": values, "in_flight": in_flight, "threads": threads}.items():
        assert projected() <= projected(**{name: value + by})


@given(numbers, st.integers(1, 2000), st.integers(1, 2000), grown)
def test_kmeans_holds_more_with_more_rows_columns_and_clusters(n: int, r: int, k: int, by: int) -> None:
    least = project_lloyd_bytes(n, r, k)
    assert least <= project_lloyd_bytes(n + by, r, k)
    assert least <= project_lloyd_bytes(n, r, k + by)
    assert least <= project_lloyd_bytes(n, r, k, threads=2)


@pytest.mark.parametrize("components", ["stored", "left", "none"])
@given(numbers, st.integers(1, 4096), st.integers(1, 300_000), st.integers(0, 64), grown)
def test_a_report_holds_more_with_more_of_anything(
    components: str, n: int, rows: int, values: int, mib: int, by: int
) -> None:
    given = {"n_images": n, "n_values": values, "block_rows": rows, "in_flight": 1, "picture_bytes": mib * MIB}
    given |= {"picture_values": 100, "n_columns": 10, "n_clusters": 10}

    def projected(**more: int) -> int:
        return footprint.project_report_bytes(**{**given, **more}, components=components)

    for name, value in given.items():
        assert projected() <= projected(**{name: value + by})


def test_a_million_images_and_their_links_fit_a_gibibyte() -> None:
    make_plan(settings_from({"k": 1000}), 10**6, (64, 64), Resources(GIB, 2)).check()


def test_fifty_thousand_native_cuts_fit_the_smallest_budget_of_the_matrix() -> None:
    plan_of(50_000, (300, 430), 400 * MIB, k=1000, components=100).check()


@given(numbers, sides, sides, st.integers(1, 1000))
def test_a_cluster_of_more_workers_never_needs_more_of_each(n: int, width: int, height: int, workers: int) -> None:
    settings = settings_from({"k": 10, "components": 5, "variance": None})
    few, many = (
        make_plan(settings, n, (width, height), Resources(64 * GIB, 1, workers=count, joined=True))
        for count in (workers, 2 * workers)
    )
    assert many.projected_bytes <= few.projected_bytes
    assert many.client_bytes == few.client_bytes > 0


# -- what a plan says beyond memory


def test_a_plan_is_made_again_when_the_spectrum_is_known() -> None:
    settings = settings_from({"k": 10})
    resources = Resources(GIB, 2)
    bound = make_plan(settings, 100_000, (64, 64), resources)
    assert bound.is_bound
    known = replan(bound, settings, 100, resources)
    assert not known.is_bound
    assert known.stage("cluster").projected_bytes < bound.stage("cluster").projected_bytes
    assert known.stage("reduce") == bound.stage("reduce")
    with pytest.raises(MemoryBudgetError, match=r"stage 'cluster' needs .* --components"):
        replan(bound, settings_from({"k": 5000}), 4096, resources)


def test_pictures_that_the_budget_leaves_no_room_for_do_not_refuse_the_others() -> None:
    settings = settings_from({"k": 10})
    pictures = Pictures(2, (MIB, 300 * MIB), 50_000, 129_000, 0, 0)
    for budget, within in ((400, MIB), (4000, 300 * MIB)):
        plan = make_plan(settings, 100, (64, 64), Resources(budget * MIB, 2), pictures)
        plan.check()
        least = make_plan(settings, 100, (64, 64), Resources(budget * MIB, 2), Pictures(1, (1,), 0, 0, 0, 0))
        assert plan.stage("ingest").projected_bytes - least.stage("ingest").projected_bytes == 2 * (within - 1)
        assert (plan.stage("ingest").choices["decode_bytes"] >= 300 * MIB) == (within > MIB)
    native = settings_from({"k": 10, "size": "native"})
    with pytest.raises(MemoryBudgetError, match="ingest"):
        make_plan(native, 100, (64, 64), Resources(400 * MIB, 2), pictures).check()


@pytest.mark.parametrize(
    ("text", "count"), [("8190", 8190), ("1M", 10**6), ("100e6", 10**8), ("2.5k", 2500), ("1.5e3", 1500), ("1G", 10**9)]
)
def test_numbers_of_images_are_read(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "8,190", "1 M", "1m", "1.5", "2.5555k", "1e", "e6", "1e-3", "1e100", "ten"]
)
def test_other_numbers_of_images_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="whole number such as 8190, 1M or 100e6"):
        parse_count(text)


ABSENT = ("plan", "--images", "5e6", "--size", 64, "-k", 1000)
JOINED = ("--scheduler", "any", "--workers", 200, "--memory", "4GiB")


def test_a_plan_of_pictures_and_a_cluster_that_are_not_there(cli: Cli) -> None:
    ran = cli(*ABSENT, *JOINED)
    assert ran.code == 0, ran.err
    assert "5,000,000 images of 64x64" in ran.out
    assert "200 workers of one thread; memory budget 4 GiB each" in ran.out
    for words in ("estimated on this machine on 20", "upper bound", "no header was read", "disk: ", "names and labels"):
        assert words in ran.out
    assert "200 workers of 2 threads" in cli(*ABSENT, *JOINED, "--threads", 2).out
    found = json.loads(cli(*ABSENT, *JOINED, "--json").out)
    assert found["disk_bytes"] >= 5 * 10**6 * 4096
    assert found["peak_disk_bytes"] >= found["disk_bytes"]
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert all(stage["seconds"] > 0 for stage in found["stages"])
    assert found["projected_bytes"] <= 4 * GIB
    assert 1 * GIB <= found["client_bytes"] <= 4 * GIB


def test_a_process_that_starts_a_job_is_held_to_the_budget_too(cli: Cli) -> None:
    """Names and labels of all images are in it, whatever the workers hold."""
    line = ("plan", "--images", "100e6", "--size", 64, "-k", 1000, "--scheduler", "any", "--workers", 200)
    ran = cli(*line, "--memory", "4GiB")
    assert ran.code == 2
    (error,) = ran.error_lines
    assert "the process that starts the job needs 45" in error
    enough = error.partition("use --memory ")[2].split()[0]
    assert cli(*line, "--memory", enough).code == 0


def test_a_plan_for_worker_processes_of_this_machine_divides_the_budget(cli: Cli) -> None:
    found = json.loads(cli(*ABSENT, "--workers", 3, "--memory", "16GiB", "--threads", 1, "--json").out)
    assert (found["workers"], found["threads"], found["budget_bytes"]) == (3, 1, 4 * GIB)
    printed = cli(*ABSENT, "--workers", 3, "--memory", "16GiB", "--threads", 1).out
    assert f"memory of all processes together: {show_bytes(found['tree_bytes'])} at most, of 16 GiB" in printed
    small = (*ABSENT[:1], "--images", "1e4", "--size", 64, "-k", 10, "--workers", 2)
    (error,) = cli(*small, "--memory", "400MiB").error_lines
    enough = error.partition("use --memory ")[2].split()[0]
    assert cli(*small, "--memory", enough).code == 0, "it is the budget of all processes together"


@given(numbers, st.integers(1, 8), st.integers(1, 4), st.integers(300, 20_000), st.booleans(), st.booleans())
def test_processes_that_a_run_starts_keep_to_the_budget_of_all(
    n: int, workers: int, threads: int, budget_mib: int, with_report: bool, reduced: bool
) -> None:
    settings = settings_from({"k": 10, "reduce": "pca" if reduced else "none", "report.write": with_report})
    tree = budget_mib * MIB

    def planned(tree_bytes: int) -> Plan:
        share = tree_bytes // (workers + 1)
        given = Resources(share, threads, workers=workers, joined=True, tree_bytes=tree_bytes)
        return make_plan(settings, n, (64, 64), given)

    plan = planned(tree)
    try:
        plan.check()
    except MemoryBudgetError as error:
        enough = parse_bytes(str(error).partition("--memory ")[2].split()[0])
        assert enough > tree
        planned(enough).check()
        return
    assert plan.projected_bytes <= plan.budget_bytes
    assert plan.tree_bytes <= tree
    assert plan.workers * (plan.budget_bytes - footprint.SHARED_BYTES) + plan.client_bytes <= tree


def test_a_small_job_on_two_workers_fits_a_small_budget() -> None:
    """As measured, 400 images take 300 MiB in all processes together."""
    given = Resources(512 * MIB // 3, 1, workers=2, joined=True, tree_bytes=512 * MIB)
    plan = make_plan(settings_from({"k": 8, "components": 20, "variance": None}), 400, (64, 64), given)
    plan.check()
    assert 300 * MIB <= plan.tree_bytes <= 450 * MIB


@given(numbers, st.integers(1, 4))
def test_every_thread_of_a_worker_has_a_child_that_decodes(n: int, threads: int) -> None:
    of_one, of_worker = (
        make_plan(settings_from({"k": 10}), n, (64, 64), Resources(64 * GIB, threads, joined=joined)).stage("ingest")
        for joined in (False, True)
    )
    assert of_worker.choices["children"] == threads >= of_one.choices["children"]
    least = footprint.DASK_WORKER_BYTES + threads * footprint.DECODING_CHILD_BYTES
    assert of_worker.projected_bytes >= least + n * footprint.SENT_NAME_BYTES


def test_what_cannot_be_planned_is_refused(cli: Cli) -> None:
    for call, words in (
        (("plan", "--images", "1e3", "--size", "native"), "use --size WIDTHxHEIGHT"),
        (("plan", "photos", "--images", "1e3"), "images that need not exist"),
        (("plan", "--images", "1e3", "--scheduler", "any"), "--scheduler needs --workers and --memory"),
    ):
        ran = cli(*call)
        assert ran.code == 2, call
        (line,) = ran.error_lines
        assert words in line


def test_the_disk_that_a_plan_names_is_what_a_run_takes(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "images", 300)
    given = (tmp_path / "images", "--out", tmp_path / "o", "-k", 3, "--components", 20, "--size", 64)
    found = json.loads(cli("plan", *given, "--json").out)
    assert cli("run", *given, "--set", "link=none", "--memory", "1GiB").code == 0
    taken = sum(file.stat().st_size for file in (tmp_path / "o").rglob("*") if file.is_file())
    assert 0.7 * found["disk_bytes"] <= taken <= 1.05 * found["disk_bytes"]
    assert found["pictures"]["looked_at"] > 0


# -- the README's floors


def test_the_floors_in_the_readme_are_those_of_the_code() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for name, floor in footprint.FLOORS.items():
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {name} |")]
        assert row.split("|")[2].strip() == show_bytes(floor)


@pytest.mark.parametrize("budget", [300 * MIB, GIB])
def test_the_process_that_reads_a_parquet_manifest_is_in_the_plan(budget: int) -> None:
    of_csv, of_parquet = (
        make_plan(settings_from({"k": 5, "images": images}), 1000, (16, 16), Resources(budget, 2)).stage("output")
        for images in ("/a/list.csv", "/a/list.parquet")
    )
    more = of_parquet.projected_bytes - of_csv.projected_bytes
    least = footprint.PARQUET_CHILD_BYTES + 16 * MIB
    assert least <= more <= footprint.PARQUET_CHILD_BYTES + 64 * MIB


def test_a_run_of_a_parquet_manifest_stays_within_what_was_planned(tmp_path: Path, cli: Cli) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    names = [file.name for file in write_pictures(tmp_path, 60)]
    table = pandas.DataFrame({"path": names, "note": [f"{name} " * 2000 for name in names]})
    table.to_parquet(tmp_path / "list.parquet")
    out = tmp_path / "o"
    ran = cli("run", tmp_path / "list.parquet", "--out", out, "-k", 3, "--size", 16, "--memory", "512MiB", "--json")
    assert ran.code == 0, ran.err
    for name, facts in json.loads(ran.out)["stages"].items():
        assert facts["measured_peak_bytes"] <= (facts["projected_peak_bytes"] or 512 * MIB), name


@given(sides, sides, st.integers(1, 64), st.integers(64, 1 << 14))
def test_a_command_on_workers_fits_what_its_refusal_names(width: int, height: int, workers: int, mib: int) -> None:
    """The budget of all processes counts, and the budget that a refusal names is enough."""
    settings, shape = (
        settings_from({"k": 3, "size": f"{width}x{height}"}),
        FeatureShape(width * height, "uint8", of_pixels=True),
    )

    def needed(tree_bytes: int) -> int:
        given = Resources(tree_bytes // (workers + 1), 1, workers=workers, joined=True, tree_bytes=tree_bytes)
        plan = plan_predict(settings, 500, 500, width * height, shape, 20, 3, given)
        here = plan_predict(settings, 500, 500, width * height, shape, 20, 3, given.of_coordinator)
        return check_on_cluster(replace(plan, client_bytes=here.projected_bytes), given, otherwise="fewer --workers")

    try:
        assert needed(mib * MIB) <= mib * MIB
    except MemoryBudgetError as error:
        named = re.search(r"use --memory (\d+)MiB or fewer --workers", str(error))
        assert named is not None
        assert mib * MIB < needed(int(named[1]) * MIB) <= int(named[1]) * MIB
