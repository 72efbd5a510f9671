"""The permission of a task's sandbox to call a model provider."""

from __future__ import annotations

import secrets

from hutch import agents
from hutch.control.context import Context
from hutch.model import BUILT_IN, Budget, LlmApi, LlmGrant
from hutch.store.tasks import TaskRow

_KEYS = {"sk-ant-": "anthropic", "AIza": "google", "AQ.": "google"}
"""How keys begin."""


def seal_key(context: Context, task_id: str, key: str) -> bytes:
    """The key as it is stored until the task has ended and its sandbox is gone."""
    return context.vault.seal(key, f"tasks.llm_key:{task_id}")


def new_placeholder() -> str:
    """What the guest has in the key's place."""
    return f"hutch-{secrets.token_hex(16)}"


def llm_grant(context: Context, task: TaskRow) -> LlmGrant | None:
    """The permission that the task's sandbox has, with the key in the clear: only ever on its way to the node. None
    when the task has ended."""
    if task.sealed_llm_key is None or task.placeholder is None or task.ended_at is not None:
        return None
    key = context.vault.unseal(task.sealed_llm_key, f"tasks.llm_key:{task.id}")
    limits = Budget.model_validate(task.budget)
    return LlmGrant.model_validate(
        {
            "provider": task.llm_provider or provider_of(task.agent, key),
            "org": task.org,
            "key": key,
            "placeholder": task.placeholder,
            "provider_tools": task.provider_tools is not False,
            "max_usd": limits.llm_usd,
            "max_tokens": limits.llm_tokens,
        }
    )


def provider_of(agent: str, key: str) -> str:
    """Whose key it is: the agent says so, or, for an agent that takes any, the key's own form."""
    if (own := agents.get(agent).provider) is not None:
        return own
    return next((name for begin, name in _KEYS.items() if key.startswith(begin)), "openai")


def api_of(context: Context, provider: str) -> LlmApi:
    """The form in which a provider is called."""
    if provider in BUILT_IN:
        return BUILT_IN[provider]
    endpoint = context.settings.llm_providers.get(provider)
    return endpoint.api if endpoint is not None else "openai"
