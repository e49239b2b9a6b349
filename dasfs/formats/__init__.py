"""Bytes to values and back: TAR, index, manifest, compression. No I/O beyond file objects."""
