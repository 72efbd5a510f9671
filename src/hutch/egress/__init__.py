"""What leaves a sandbox passes here. In this version: the LLM gateway."""
