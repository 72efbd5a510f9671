"""`sudo` without setuid, which gVisor does not honour: the guest, which is root, starts the command for the caller."""
