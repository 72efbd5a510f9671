"""Hypothesis without a deadline: machines are busy at times, and slow is not wrong."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
