"""The stress figures on pictures, in small."""

from __future__ import annotations

import pytest

from benchmarks.stress import mutations, tiny


@pytest.mark.slow
def test_mutated_pictures_cost_their_own_rows() -> None:
    found = mutations.main(full=False)
    assert found["files"] == 120
    assert found["good_neighbours"] == 30
    assert sum(found["failed_by_status"].values()) > 60
    assert found["by_kind"]["png"]["changed"] == 0, "every byte of its picture has a checksum"


@pytest.mark.slow
def test_tiny_files_are_all_accounted_for() -> None:
    found = tiny.main(full=False)
    assert found["files"] == 2000
    assert 0 < found["listing_and_ledger_seconds"] < found["wall_seconds"]
