"""What leaves a sandbox passes here: the LLM gateway, the fence, the broker, and the door for its identity."""
