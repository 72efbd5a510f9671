"""Files that run on the guest's own Python: not part of this program, and standing alone."""
