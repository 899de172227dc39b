"""Bytes on disks and at addresses: read within limits, written whole; only our own replaced."""
