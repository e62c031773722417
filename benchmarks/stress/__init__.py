"""Runs that are killed, disks that fill up, bytes that flip: one module a figure, each with `main(full) -> dict`."""
