"""The fence: the process that judges what sandboxes with rules about names reach.

It answers their questions about names, and their connections to names come to it. It parses what hostile guests send,
so it is a process of its own, without privileges: what the kernel has to be told it asks the node for
(`hutch.egress.fencing`), and the node's firewall holds its own connections to public addresses.
"""
