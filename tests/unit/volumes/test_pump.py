"""What carries a mount's requests out of the sandbox."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time

from tests.unit.volumes.asking import request, write

from hutch.volumes.marks import REMEMBERED
from hutch.volumes.wire import REPLY, Op
from hutch_guest.volumes import pump

_WAIT = 10.0


def test_fewer_writes_wait_for_answers_than_the_server_remembers() -> None:
    kernel, fuse = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server, link = socket.socketpair()
    kernel.settimeout(_WAIT)
    server.settimeout(_WAIT)
    carrying = pump.Pump(fuse.detach())
    threading.Thread(target=carrying.carry_out, daemon=True).start()  # until the tests end
    carrying.join(link)
    most = pump._MOST_AHEAD
    assert most < REMEMBERED // 2
    for number in range(most + 1):
        kernel.send(request(Op.WRITE, 2, write(0, b"x", os.O_APPEND), number))
        if number < most:
            assert REPLY.unpack_from(kernel.recv(99))[2] == number
    asked = len(request(Op.WRITE, 2, write(0, b"x")))
    assert len(server.recv(4 + most * asked, socket.MSG_WAITALL)) == 4 + most * asked
    kernel.setblocking(False)
    for _ in range(100):
        try:
            raise AssertionError(kernel.recv(99))
        except BlockingIOError:
            os.sched_yield()
    kernel.settimeout(_WAIT)
    server.send(REPLY.pack(REPLY.size + 8, 0, 0) + struct.pack("<I4x", 1))
    assert REPLY.unpack_from(kernel.recv(99))[2] == most
    server.close()
    while carrying._link is not None:
        time.sleep(0.01)
    link.close()
    kernel.detach()
