"""Disks apart from memory: what a sandbox has written since its image, as its guest packs it and is given it back.

Every byte of it is a guest's: the node stores it, bounded, and never unpacks it on the host.
"""
