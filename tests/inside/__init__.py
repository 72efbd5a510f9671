"""Programs that tests run inside a sandbox. They stand on their own: only the standard library is there."""
