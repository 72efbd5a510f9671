"""The MCP gateway: starts MCP servers in the sandbox and serves all that they offer as one, over HTTP."""
