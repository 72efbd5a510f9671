"""The client library: `Sandbox` and `Hutch`, and the same asynchronous as `AsyncSandbox` and `AsyncHutch`."""

from hutch.sdk._async import AsyncHutch, AsyncOutputs, AsyncProcess, AsyncPty, AsyncSandbox, AsyncTask
from hutch.sdk._sync import Hutch, Outputs, Process, Pty, Sandbox, Task
from hutch.sdk.frames import Output
from hutch.sdk.inputs import LocalInput, parse_input

__all__ = [
    "AsyncHutch",
    "AsyncOutputs",
    "AsyncProcess",
    "AsyncPty",
    "AsyncSandbox",
    "AsyncTask",
    "Hutch",
    "LocalInput",
    "Output",
    "Outputs",
    "Process",
    "Pty",
    "Sandbox",
    "Task",
    "parse_input",
]
