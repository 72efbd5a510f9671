"""Volumes in the sandbox: file systems whose files the server keeps.

Each is a FUSE file system of this sandbox's kernel, served by a process of its own (`pump.py`) that understands none of
it: it passes the kernel's requests to the server, over a connection that the server has opened, and the answers back.
So the sandbox needs no network for them, holds no credential, and can be frozen and thawed at any moment.
"""

import os

PUMP = os.path.join(os.path.dirname(__file__), "pump.py")
"""The program of that process."""
