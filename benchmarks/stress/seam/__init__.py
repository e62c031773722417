"""A folder for PYTHONPATH, not a package to import from."""
