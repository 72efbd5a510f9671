"""Templates that organisations build from steps, as E2B's builder API has them. Each step is run in a sandbox."""

from hutch.control.builds.service import Builds

__all__ = ["Builds"]
