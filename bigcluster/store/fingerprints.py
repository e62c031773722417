"""Digests of settings and inputs. A stage compares them to learn whether stored data was made of the same ones."""

from __future__ import annotations

import json
from typing import Any

from bigcluster.files.durable import digest_of


def fingerprint(**parts: Any) -> str:
    """The digest of named JSON values, 32 hex digits. It is the same where all parts are the same, in any order."""
    return digest_of(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode())
