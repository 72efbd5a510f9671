"""HTTP/1.1 messages as bytes on a wire: their heads, and where their bodies end. Strict, and without I/O."""
