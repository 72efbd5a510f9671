"""E2B's envd protocol: Connect RPC with JSON, and plain HTTP for files."""
