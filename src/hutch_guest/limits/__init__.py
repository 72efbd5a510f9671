"""The sandbox's limits: noticing a breach, and saying what happened."""
