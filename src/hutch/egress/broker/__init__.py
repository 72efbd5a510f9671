"""The broker: the process that has the values of secrets, and puts them where sandboxes have placeholders.

The fence leads to it the connections of sandboxes to hosts that a secret of theirs is for. It ends their TLS with an
authority of the sandbox's own, which only that sandbox trusts and which can vouch for those hosts only; verifies the
host's own certificate; swaps placeholders in the places that the secret allows; and refuses them anywhere else. What
the host says is passed on without the values.

It parses what hostile guests send, so it has no privileges, and is a user of its own: not the fence's, which parses
more and knows no value. Of the fence it believes which sandbox a connection is of. That is enough to be allowed to
speak, and no more: to use a secret takes its placeholder, which the fence never sees, and leads to the secret's hosts.
"""
