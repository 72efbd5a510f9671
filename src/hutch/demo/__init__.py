"""The demo: what `make demo` runs, and the scripted model it runs against when there is no key."""
