"""The host daemon: boots sandboxes, keeps their limits and deadlines, and knows the facts about them."""
