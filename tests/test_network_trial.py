"""Networks that the registry does not know are first loaded in a child process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli, write_pictures
from networks import ENDLESS_TABLE, conv_net, endless_net, save
from onnx import TensorProto, helper, numpy_helper
from test_bad_networks import refused

from bigcluster.errors import ModelError
from bigcluster.models import network, open_network, trial

TABLE = "size = 16\nmean = 127.5\nstd = 127.5\n"


def of_much_memory(n_values: int) -> Any:
    """A network that makes a tensor of so many float32 values while it is loaded: nothing in its file is large."""
    model = conv_net()
    model.graph.initializer.append(numpy_helper.from_array(np.array([n_values], np.int64), "n"))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["many"], value=zero),
        helper.make_node("ReduceMean", ["many"], ["mean"], keepdims=0),
        helper.make_node("Add", ["map", "mean"], ["sum"]),
    ]
    for place, node in enumerate(nodes):
        model.graph.node.insert(4 + place, node)
    return model


def test_too_much_memory_is_one_line_and_not_taken(cli: Cli, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 6)
    path = save(tmp_path, of_much_memory(1 << 29), table=f"{TABLE}layer = 'sum'")
    line = refused(cli, tmp_path / "in", tmp_path / "out", path, 2, "--memory", "512MiB")
    assert "that the memory budget leaves for a network; use a larger --memory or a smaller network" in line


def test_a_network_without_an_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "try_network", partial(trial.try_network, patience_seconds=2.0))
    path = save(tmp_path, endless_net(), table=ENDLESS_TABLE + "\nmean = 127.5\nstd = 127.5")
    with pytest.raises(ModelError, match=r"takes more than 2 s to be loaded and for one picture: not used"):
        open_network(str(path), try_first=True)


def test_a_child_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = trial.start_python
    monkeypatch.setattr(trial, "start_python", lambda module, **options: start("bigcluster.no_such_module", **options))
    path = save(tmp_path, conv_net(), table=TABLE)
    with pytest.raises(ModelError, match=r"ends the process that loads it \(exit status 1\): not used"):
        open_network(str(path), try_first=True)


def test_what_onnx_runtime_says_in_the_child_is_said(tmp_path: Path) -> None:
    model = conv_net()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="cannot be loaded; ONNX Runtime says"):
        open_network(str(save(tmp_path, model, table=TABLE)), try_first=True)


def test_a_trial_changes_no_bit(tmp_path: Path) -> None:
    path = str(save(tmp_path, conv_net(), table=TABLE))
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    tried, loaded = open_network(path, try_first=True, most_bytes=1 << 30), open_network(path)
    assert np.array_equal(tried.features(picture), loaded.features(picture))
