"""Model providers, as far as several parts of Hutch have to agree on them."""

from __future__ import annotations

from typing import Literal

LlmApi = Literal["anthropic", "openai", "google"]
"""The form in which a provider is called: Messages; Responses and Chat Completions; generateContent."""

BUILT_IN: dict[str, LlmApi] = {"anthropic": "anthropic", "openai": "openai", "google": "google"}
"""The providers that Hutch knows by itself."""

PROVIDER_NAME = r"^[a-z][a-z0-9-]{0,31}$"
