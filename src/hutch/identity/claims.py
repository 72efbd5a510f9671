"""What an identity token says. Facts of Hutch's own, and what whoever made the sandbox has said of it; nothing of it
comes from the sandbox.

`sub` is `org:ORG:app:APP:task:TASK`, or `...:sandbox:SANDBOX` of one without a task; `-` stands for no app. No part can
have a colon in it, so that patterns (`org:org_default:app:reviewer:task:*`) cannot be led astray. It has at most 127
bytes: Google takes no longer one.
"""

from __future__ import annotations

from typing import Any

from hutch.model import Identity
from hutch.store.sandboxes import SandboxRow


def claims_of(row: SandboxRow, task_id: str | None, image: str) -> dict[str, Any]:
    """The claims about a sandbox. Those that do not apply are left out."""
    said = Identity.model_validate(row.identity or {})
    whom = f"task:{task_id}" if task_id is not None else f"sandbox:{row.id}"
    found: dict[str, Any] = {
        "sub": f"org:{row.org}:app:{said.app or '-'}:{whom}",
        "org": row.org,
        "app": said.app,
        "user": said.user,
        "created_by": row.created_by,
        "task": task_id,
        "sandbox": row.id,
        "parent": row.forked_from,
        "template": row.template,
        "template_digest": f"sha256:{image}" if image else None,
        "repositories": said.repositories or None,
        "permissions": said.permissions or None,
    }
    return {name: value for name, value in found.items() if value is not None}
