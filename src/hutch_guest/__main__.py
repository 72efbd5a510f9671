"""`python -m hutch_guest`: the guest as an ordinary process, for tests."""

from hutch_guest.main import main

main()
