"""PID 1 of the sandboxes in the conformance suite: runs Python that the test sends, and sends back what it printed.

One connection is one piece of code: `<length>\n<code>`; the answer is the output, and the end of the stream.
"""

import contextlib
import io
import os
import socket
import sys
import threading
import traceback

sys.path.insert(0, "/.hutch/app")

from hutch_guest import disk


def run(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream:
        code = stream.read(int(stream.readline())).decode()
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output):
                exec(code, {"os": os})
        except BaseException:
            output.write(traceback.format_exc())
        stream.write(output.getvalue().encode())
        stream.flush()
        connection.shutdown(socket.SHUT_RDWR)  # children that live on hold the socket as well


disk.enter(os.environ["HUTCH_DISK"])
server = socket.create_server(("0.0.0.0", 49983), backlog=64)
while True:
    accepted, _ = server.accept()
    threading.Thread(target=run, args=(accepted,), daemon=True).start()
