"""Our own calls, below `/hutch/`."""
