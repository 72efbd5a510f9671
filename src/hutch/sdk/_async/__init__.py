"""The asynchronous client. `scripts/generate_sync.py` makes the blocking one of it: edit only here."""

from hutch.sdk._async.client import AsyncHutch
from hutch.sdk._async.process import AsyncProcess
from hutch.sdk._async.pty import AsyncPty
from hutch.sdk._async.sandbox import AsyncSandbox
from hutch.sdk._async.task import AsyncOutputs, AsyncTask

__all__ = ["AsyncHutch", "AsyncOutputs", "AsyncProcess", "AsyncPty", "AsyncSandbox", "AsyncTask"]
