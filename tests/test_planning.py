"""Plans: pure arithmetic that never shrinks when the work grows, and refuses what cannot fit, with a way out."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigcluster import memory
from bigcluster.config import settings_from
from bigcluster.errors import MemoryBudgetError
from bigcluster.planning import Plan, Resources, make_plan
from bigcluster.planning.stages import incremental_batch
from bigcluster.units import GIB, MIB, parse_bytes

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
    if memory.incremental_rows(n_values, usable) >= 2:
        assert memory.project_incremental_bytes(batch_rows=batch_rows, rank=kept, n_values=n_values) <= usable
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
    assert [stage.stage for stage in plan.stages] == ["ingest", "reduce", "sweep", "cluster", "output"]
    assert plan.stage("sweep").projected_bytes >= plan.stage("cluster").projected_bytes
    assert [stage.stage for stage in plan_of(1000, (64, 64), GIB, reduce="none").stages] == [
        "ingest",
        "cluster",
        "output",
    ]
