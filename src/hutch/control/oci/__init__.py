"""Images of other people: pulled from registries or read from a directory, and flattened into one layer for a node.

All of it is a stranger's, and is done by the server, which has no privileges: nothing is unpacked, what an archive says
of paths becomes a list, and the node checks that list as it checks a guest's.
"""
