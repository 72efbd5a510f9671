"""Large opaque objects."""

from hutch.blobs.base import BlobStore
from hutch.blobs.files import FileBlobs

__all__ = ["BlobStore", "FileBlobs"]
