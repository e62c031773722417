"""Digests of settings and inputs: by them a stage knows whether what is stored was made of the same."""

from __future__ import annotations

import json
from typing import Any

from bigcluster.files.durable import digest_of


def fingerprint(**parts: Any) -> str:
    """Digest of named JSON values: equal exactly where all parts are equal."""
    return digest_of(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())
