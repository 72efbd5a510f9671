"""Images: from a recipe to an EROFS file that sandboxes boot from."""

from hutch.images.catalog import BuiltImage, ImageStore
from hutch.images.events import Done, Log, Progress

__all__ = ["BuiltImage", "Done", "ImageStore", "Log", "Progress"]
