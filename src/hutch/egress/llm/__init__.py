"""The LLM gateway: sandboxes call their model provider through it, are counted, and never see the key."""
