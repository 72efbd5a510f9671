"""Volumes: trees of files that outlive sandboxes, kept by the server and used by several sandboxes at once.

`tree` keeps one, `fuse` answers the kernel of a sandbox that has mounted it, `paths` goes by paths, `shelf` holds all.
"""

from hutch.volumes.shelf import Shelf, Volume

__all__ = ["Shelf", "Volume"]
