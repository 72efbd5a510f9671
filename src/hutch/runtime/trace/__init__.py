"""What goes on inside a sandbox, told by its kernel from outside of the guest's reach: gVisor's trace points.

The kernel of a sandbox writes a message for each program that is started and each connection that is asked for, to a
socket that the node reads. It never waits for a reader: what does not fit is dropped, and counted. Protocol, points and
messages: `pkg/sentry/seccheck` of gVisor's source.
"""
