"""The settings of a run: which there are, which values are valid, and which value counts where several are given.

It imports `files`. Begin with schema.py (the settings) and checks.py (their values), then levels.py (flags,
files and kept values).
"""

from bigcluster.config.checks import COLUMN, PIXELS, are_vectors, is_file_of_features
from bigcluster.config.ks import parse_ks, parse_resolutions
from bigcluster.config.levels import parse_sets, read_toml, resolve, shipped_configs, to_toml
from bigcluster.config.schema import KEYS, MANIFOLDS, Settings, flatten, settings_from

__all__ = [
    "COLUMN",
    "KEYS",
    "MANIFOLDS",
    "PIXELS",
    "Settings",
    "are_vectors",
    "flatten",
    "is_file_of_features",
    "parse_ks",
    "parse_resolutions",
    "parse_sets",
    "read_toml",
    "resolve",
    "settings_from",
    "shipped_configs",
    "to_toml",
]
