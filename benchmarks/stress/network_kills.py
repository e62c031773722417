"""SIGKILL while a network makes features, then the same command again: the same labels, and no finished block again.

The network is a small one that is built here, so that the figure needs no file from elsewhere.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stress.kills import kill_and_repeat, run, summary
from benchmarks.stress.work import Job, catalog, labels, scratch

SIDE = 96
"""Pixels of each side of the network's input."""
CHANNELS = 64
"""Channels of its convolutions: enough that a picture takes some milliseconds."""
TABLE = f"size = {SIDE}\nmean = [127.5, 127.5, 127.5]\nstd = [127.5, 127.5, 127.5]\n"


def main(full: bool) -> dict[str, Any]:
    """20 kills in the middle of the features of 1,500 images in six row blocks; where not full, 2 kills of 600."""
    n_kills, n_images = (20, 1500) if full else (2, 600)
    rng = random.Random(0)
    with scratch() as folder:
        network = build_network(folder / "net.onnx")
        # Pixels enough that a row block holds 256 images.
        values = {"k": 12, "size": "224x320", "features": str(network), "report.write": False}
        job = Job(catalog(folder / "images", n_images), values)
        undisturbed, out = folder / "undisturbed", folder / "out"
        assert run(job, undisturbed).wait() == 0, "the undisturbed run failed"
        expected, seconds = labels(undisturbed), summary(undisturbed)["stages"]["ingest"]["seconds"]
        moments: Counter[str] = Counter()
        redone = [
            kill_and_repeat(job, out, "a block", seconds / 2, rng, expected, moments)["blocks"] for _ in range(n_kills)
        ]
        assert job.verify(out)["ok"]
    most = max(redone)
    assert most == 0, f"{most} blocks of features that had been done were done again"
    return {
        "kills": n_kills,
        "killed_in": dict(moments),
        "says": f"{n_kills} of {n_kills} runs of {n_images} images, killed while a network made their features, end "
        f"with the same labels; {most} finished blocks were done again; killed in {dict(moments)}",
    }


def build_network(path: Path) -> Path:
    """Write a network of three convolutions and an average, with a table beside it, and return its path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, constants, name = [], [], "pixels"
    for layer, n_inputs in enumerate((3, CHANNELS, CHANNELS)):
        weights = rng.standard_normal((CHANNELS, n_inputs, 3, 3)).astype(np.float32) / np.sqrt(9 * n_inputs)
        constants.append(numpy_helper.from_array(weights.astype(np.float32), f"w{layer}"))
        nodes += [
            helper.make_node("Conv", [name, f"w{layer}"], [f"conv{layer}"], strides=[2, 2], kernel_shape=[3, 3]),
            helper.make_node("Relu", [f"conv{layer}"], [f"relu{layer}"]),
        ]
        name = f"relu{layer}"
    nodes += [
        helper.make_node("GlobalAveragePool", [name], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["logits"]),
    ]
    constants.append(numpy_helper.from_array(rng.standard_normal((CHANNELS, 10)).astype(np.float32), "head"))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    path.with_suffix(".toml").write_text(TABLE, encoding="utf-8")
    return path
