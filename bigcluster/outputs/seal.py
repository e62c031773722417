"""The seal on what a run wrote beside its store: the digest of every file, and whether the run came to its end.

A run breaks the seal when it starts and puts it back when everything is written. So a missing file under a seal is
damage, and without one it is merely not made yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from bigcluster.durable import digest_of_file
from bigcluster.store import Mark, Marks

STAGE = "outputs"
SUMMARY = "summary.json"
RUN_TOML = "run.toml"
OF_A_RUN = ("labels.csv", "images.csv", "variance.csv", "memory.csv", SUMMARY, RUN_TOML)
OF_A_SWEEP = ("sweep.csv", "sweep.png")


@contextmanager
def sealing(store_root: Path, out: Path, names: Collection[str]) -> Iterator[None]:
    """Around the writing of these files: unsealed within, sealed once the block ends well. The others stay sealed."""
    marks = Marks(store_root)
    others = {name: digest for name, digest in sealed_files(marks).items() if name not in names}
    marks.write(STAGE, Mark("", payload={"files": others, RUN_TOML: ""}))
    yield
    digests = {name: digest_of_file(out / name) for name in names if (out / name).is_file()}
    settings = (out / RUN_TOML).read_text(encoding="utf-8")
    marks.write(STAGE, Mark("", payload={"files": others | digests, RUN_TOML: settings}))


def sealed_files(marks: Marks) -> dict[str, str]:
    """File -> digest of what is under seal; nothing where the seal is broken or was never put."""
    mark = marks.read(STAGE)
    files: dict[str, str] = {} if mark is None else mark.payload["files"]
    return files


def is_finished(marks: Marks) -> bool:
    """Whether the last run came to its end."""
    return SUMMARY in sealed_files(marks)


def sealed_settings(marks: Marks) -> str:
    """The text of run.toml under the seal; empty where there is none."""
    mark = marks.read(STAGE)
    text: str = "" if mark is None else mark.payload[RUN_TOML]
    return text
