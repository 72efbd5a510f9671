"""What a call has to keep to where a budget is in dollars: all that it costs can be counted."""

from __future__ import annotations

from hutch.egress.llm.asked import Asked
from hutch.egress.llm.prices import Price
from hutch.egress.llm.refused import Refused


def check(asked: Asked, model: str | None, price: Price | None, status: int) -> None:
    """Raises `Refused` with `status` for a call whose cost the budget would not see."""
    if asked.apart is not None:
        raise Refused(
            status,
            f"`{asked.apart[:100]}` may cost what the provider's answer does not tell, and a budget in dollars holds "
            "for this call. Leave it out, or have the budget set in tokens.",
            field=asked.apart.split(":")[0],
        )
    if price is None:
        named = f"The model {model} has no price on this node" if model else "The request names no model"
        raise Refused(
            status,
            f"{named}, and a budget in dollars holds for this call. Ask for another model, have this one added to the "
            "node's prices, or have the budget set in tokens.",
            field="model",
        )
    if asked.searches and not price.covers_searches:
        raise Refused(
            status,
            f"Searches of the web by {model} have no price on this node, and a budget in dollars holds for this "
            "call. Leave out the tool that searches, or have `web_search` added to the node's prices.",
            field="tools",
        )
