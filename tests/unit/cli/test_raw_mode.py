"""The terminal of whoever calls `hutch shell`."""

from __future__ import annotations

import os
import pty
import select
import sys
import termios

import pytest

from hutch.cli.terminal import raw_mode


def test_what_was_typed_before_the_shell_was_there_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(keyboard, "wb", buffering=0) as keys:
        monkeypatch.setattr(sys, "stdin", stdin)
        before = termios.tcgetattr(stdin)
        keys.write(b"ls\n")
        assert select.select([stdin], [], [], 10)[0]
        with raw_mode():
            assert os.read(stdin.fileno(), 100) == b"ls\n"
            keys.write(b"\x03")
            assert os.read(stdin.fileno(), 100) == b"\x03"
        assert termios.tcgetattr(stdin) == before
