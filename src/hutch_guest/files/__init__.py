"""Files of the sandbox: reading, writing, archives, watching."""
