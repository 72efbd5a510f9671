"""E2B's control API, for programs that were written for E2B: `E2B_API_URL` leads here."""

from hutch.e2b.app import ROOTS, create_e2b_app

__all__ = ["ROOTS", "create_e2b_app"]
