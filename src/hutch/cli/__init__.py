"""The command `hutch`."""
