"""The one place that imports ONNX Runtime: with its telemetry off.

Official builds, 1.32 among them, write an identifier of the machine into the cache folder of the user on import, and
send events to Microsoft. Source: Privacy.md of ONNX Runtime. Nothing that works on people's pictures may do that.
"""

from __future__ import annotations

import os
from typing import Any

_SWITCH = "ORT_DISABLE_TELEMETRY"
"""The environment variable that ONNX Runtime reads when it is imported, and never again."""


def onnx_runtime() -> Any:
    """Return the module onnxruntime. The first call takes 0.1 s and 40 MiB."""
    os.environ.setdefault(_SWITCH, "1")
    import onnxruntime

    return onnxruntime
