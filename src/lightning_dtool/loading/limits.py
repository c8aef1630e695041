"""Limits of source.zip. Writing keeps to them, so every archive that was written can be read."""

MAX_SOURCE_BYTES = 64 * 2**20
"""The largest total size of the files in source.zip, uncompressed."""

MAX_SOURCE_FILES = 20_000
"""The largest number of files in source.zip."""
