"""Images: from a recipe to an EROFS file that sandboxes boot from."""

from hutch.images.catalog import ImageStore
from hutch.images.events import Done, Log, Progress
from hutch.images.lookup import BuiltImage

__all__ = ["BuiltImage", "Done", "ImageStore", "Log", "Progress"]
