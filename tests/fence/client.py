"""What the fence's tests run inside a sandbox: steps as JSON on the command line, what came of each on its output."""

import json
import socket
import ssl
import struct
import sys
import time


def lookup(step):
    try:
        return sorted({found[4][0] for found in socket.getaddrinfo(step["name"], 80, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        return f"gaierror {error.errno}"


def dns(step):
    """A question as bytes; the answer's code and addresses."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in step["name"].split("."))
    asked = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, step.get("type", 1), 1)
    server = (step.get("server", "169.254.169.253"), step.get("port", 53))
    if step.get("tcp"):
        with socket.create_connection(server, 3) as connection:
            connection.sendall(struct.pack(">H", len(asked)) + asked)
            answer = connection.recv(4096)[2:]
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(step.get("wait", 3))
            sender.connect(server)
            sender.send(asked)
            answer = sender.recv(4096)
    return {"code": answer[3] & 15, "answers": struct.unpack_from(">H", answer, 6)[0], "size": len(answer)}


def read(connection, most=65536):
    data = b""
    try:
        while len(data) < most and (more := connection.recv(65536)):
            data += more
            if b"\r\n\r\n" in data and (length := _length(data)) is not None and len(data) >= length:
                break
    except TimeoutError:
        if not data:
            raise
    return data


def _length(data):
    head, _, _ = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return len(head) + 4 + int(line.split(b":")[1])
    return None


def tcp(step):
    """Parts of bytes, and after each what comes back."""
    came = []
    with socket.create_connection(tuple(step["to"]), step.get("wait", 3)) as connection:
        connection.settimeout(step.get("wait", 3))
        if step.get("first"):
            came.append(connection.recv(100).decode())
        for part in step.get("parts", []):
            connection.sendall(part.encode("latin-1"))
            came.append(read(connection).decode("latin-1")[:2000])
            if not came[-1]:
                break
    return came


def tls(step):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(tuple(step["to"]), step.get("wait", 3)) as plain:
        plain.settimeout(step.get("wait", 3))
        with context.wrap_socket(plain, server_hostname=step.get("sni")) as connection:
            host = step.get("host", step.get("sni") or "none")
            connection.sendall(f"GET {step.get('path', '/')} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return json.loads(read(connection).partition(b"\r\n\r\n")[2])


def udp(step):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(2)
        sender.connect(tuple(step["to"]))
        sender.send(b"x")
        return sender.recv(10).decode()


def python(step):
    """Whatever else: code that sets `result`."""
    names = {}
    exec(step["code"], names)
    return names.get("result")


def run(step):
    start = time.monotonic()
    try:
        came = globals()[step["do"]](step)
    except ConnectionRefusedError:
        came = "refused"
    except ConnectionResetError:
        came = "reset"
    except TimeoutError:
        came = "silence"
    except ssl.SSLError as error:
        came = f"ssl {error.reason}"
    except OSError as error:
        came = f"error {error.errno}"
    return [came, round(1000 * (time.monotonic() - start), 1)]


print(json.dumps([run(step) for step in json.loads(sys.argv[1])]))
