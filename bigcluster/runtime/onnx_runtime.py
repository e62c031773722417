"""This module imports ONNX Runtime with its telemetry off. No other module imports it.

On import, official builds, 1.32 among them, write an identifier of the machine into the cache folder of the user, and
send events to Microsoft. Source: Privacy.md of ONNX Runtime. A program that reads private pictures must not do that.
"""

from __future__ import annotations

import os
from typing import Any

_SWITCH = "ORT_DISABLE_TELEMETRY"
"""The environment variable that turns telemetry off. ONNX Runtime reads it only when it is imported."""


def onnx_runtime() -> Any:
    """Return the module onnxruntime. The first call takes 0.1 s and 40 MiB."""
    os.environ.setdefault(_SWITCH, "1")
    import onnxruntime

    return onnxruntime
