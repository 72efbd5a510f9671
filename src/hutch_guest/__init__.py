"""The guest: PID 1 of every sandbox. Standard library only; imports nothing of `hutch`.

It speaks HTTP/1.1 on one port: E2B's envd protocol, and our own calls below `/hutch/`.
"""

__version__ = "0.1.0"
