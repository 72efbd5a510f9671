"""The server process: `/v1` over HTTP and WebSocket. Thin: every decision is made in `hutch.control`."""
