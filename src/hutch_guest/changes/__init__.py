"""What a sandbox has written since its image: listed, packed into a stream, and put back into a fresh sandbox.

The written layer of the root's overlay (`hutch_guest.disk`) is exactly that, so that nothing is compared with the image
file by file. It is done in a process of its own (`child.py`): the guest goes on answering, and its memory stays small.
"""

import os

CHILD = os.path.join(os.path.dirname(__file__), "child.py")
"""The program of that process."""
