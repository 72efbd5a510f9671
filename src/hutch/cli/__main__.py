"""`python -m hutch.cli`."""

from hutch.cli.main import main

main()
