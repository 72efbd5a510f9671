"""Every call of the desktop SDK, and what it does to the screen."""

from __future__ import annotations

import io
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import websocket
from e2b_desktop import Sandbox
from PIL import Image

Eventually = Callable[[Callable[[], Any]], Any]
URL = os.environ["E2B_SANDBOX_URL"]
RFB = b"RFB 003.008\n"
NO_PASSWORD, PASSWORD = b"\x01\x01", b"\x01\x02"
PAGE = """<title>ready</title><body style="background: rgb(200, 30, 90); user-select: none"><script>
for (const type of ["click", "dblclick", "contextmenu", "auxclick", "mousedown", "mouseup"])
  document.addEventListener(type, event => { event.preventDefault(); document.title += ` ${type}:${event.button}` })
document.addEventListener("wheel", event => {
  const direction = event.deltaY > 0 ? " down" : " up"
  if (!document.title.endsWith(direction)) document.title += direction
})
</script>"""


def test_the_screen(desktop: Sandbox) -> None:
    assert desktop.get_screen_size() == (1280, 800)
    image = Image.open(io.BytesIO(desktop.screenshot())).convert("RGB")
    assert image.size == (1280, 800)
    assert image.getpixel((640, 400)) != (0, 0, 0), "the first one shows the desktop"
    assert b"".join(desktop.screenshot(format="stream")).startswith(b"\x89PNG")
    desktop.move_mouse(100, 200)
    assert desktop.get_cursor_position() == (100, 200)
    desktop.wait(10)


TRUST = """set -e
mkdir -p /tmp/authority && cd /tmp/authority
new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
$new -x509 -days 2 -subj '/CN=an authority' -keyout ca.key -out ca.pem
$new -subj /CN=good.test -keyout key.pem -out asked.pem
printf 'subjectAltName=DNS:good.test\nextendedKeyUsage=serverAuth\n' >names
openssl x509 -req -in asked.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem
python3 - "$(openssl x509 -hash -noout -in ca.pem)" <<'END'
import sys
sys.path.insert(0, "/.hutch/app")
from hutch_guest.trust import install
install(open("ca.pem").read(), sys.argv[1])
END
echo 127.0.0.1 good.test >>/etc/hosts
"""
SERVE = """
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"<title>trusted</title>")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), Handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/tmp/authority/cert.pem", "/tmp/authority/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("serving", flush=True)
server.serve_forever()
"""


def test_the_browser_trusts_whom_the_guest_has_it_trust(desktop: Sandbox, eventually: Eventually) -> None:
    """By the installer that is told of the broker's authority when the sandbox has secrets; here it is told of ours."""
    desktop.commands.run(TRUST, user="root")
    desktop.files.write("/tmp/authority/serve.py", SERVE)
    serving = desktop.commands.run("exec python3 /tmp/authority/serve.py", user="root", background=True, timeout=0)
    desktop.launch("firefox", "https://good.test:8443/")
    (window,) = eventually(lambda: desktop.get_application_windows("firefox"))
    eventually(lambda: desktop.get_window_title(window).startswith("trusted"))
    desktop.commands.run("pkill chromium")
    serving.kill()
    eventually(lambda: desktop.commands.run("pgrep chromium || echo none").stdout == "none\n")


def test_the_browser_and_the_mouse(desktop: Sandbox, eventually: Eventually) -> None:
    """A page tells in its title what has come to it."""
    desktop.files.write("/home/user/page.html", PAGE)
    desktop.open("/home/user/page.html")
    (window,) = eventually(lambda: desktop.commands.run("xdotool search --onlyvisible --name '^ready '").stdout.split())
    assert window in desktop.get_application_windows("chromium")
    assert desktop.get_window_title(window).startswith("ready - ")
    eventually(lambda: Image.open(io.BytesIO(desktop.screenshot())).getpixel((640, 500)) == (200, 30, 90))

    desktop.left_click(640, 500)
    desktop.double_click(300, 400)
    desktop.right_click(640, 500)
    desktop.middle_click(640, 500)
    desktop.drag((500, 400), (700, 500))
    once = "mousedown:0 mouseup:0 click:0"
    right, middle = "mousedown:2 contextmenu:2 mouseup:2 auxclick:2", "mousedown:1 mouseup:1 auxclick:1"
    said = f"ready {once} {once} {once} dblclick:0 {right} {middle} {once}"
    eventually(lambda: desktop.get_window_title(window).startswith(f"{said} - "))
    desktop.scroll("down", 2)
    eventually(lambda: desktop.get_window_title(window).startswith(f"{said} down - "))
    desktop.scroll("up")
    eventually(lambda: desktop.get_window_title(window).startswith(f"{said} down up - "))
    assert desktop.get_current_window_id() == window
    assert desktop.get_cursor_position() == (700, 500)


def test_a_terminal_and_the_keyboard(desktop: Sandbox, eventually: Eventually) -> None:
    desktop.launch("pterm")
    (window,) = eventually(lambda: [each for each in desktop.get_application_windows("pterm") if each])
    desktop.commands.run(f"xdotool windowactivate --sync {window}")
    desktop.write("cat >'/home/user/it''s typed'", delay_in_ms=5)
    desktop.press("enter")
    desktop.write("-- $HOME; \"Hello\" & 'so on'", delay_in_ms=5)
    desktop.press("enter")
    desktop.press(["ctrl", "d"])
    eventually(lambda: desktop.files.exists("/home/user/its typed"))
    eventually(lambda: desktop.files.read("/home/user/its typed") == "-- $HOME; \"Hello\" & 'so on'\n")


def fetch(desktop: Sandbox, path: str) -> tuple[int, bytes]:
    routing = {"E2b-Sandbox-Id": desktop.sandbox_id, "E2b-Sandbox-Port": "6080"}
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, headers=routing)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def security(desktop: Sandbox) -> bytes:
    """What the stream's server asks of whoever looks, as noVNC would see it: how many ways, and which."""
    routing = {"E2b-Sandbox-Id": desktop.sandbox_id, "E2b-Sandbox-Port": "6080"}
    url = URL.replace("http", "ws", 1) + "/websockify"
    viewer = websocket.create_connection(url, timeout=20, header=routing, subprotocols=["binary"])
    try:
        assert viewer.recv() == RFB
        viewer.send_binary(RFB)
        answer = viewer.recv()
        assert isinstance(answer, bytes)
        return answer
    finally:
        viewer.close()


def test_the_stream(desktop: Sandbox) -> None:
    desktop.stream.start()
    assert desktop.stream.get_url(view_only=True) == (
        f"https://{desktop.get_host(6080)}/vnc.html?autoconnect=true&view_only=true&resize=scale"
    )
    status, page = fetch(desktop, "/vnc.html")
    assert status == 200 and b"noVNC" in page
    assert fetch(desktop, "/core/rfb.js")[0] == 200
    assert security(desktop) == NO_PASSWORD
    with pytest.raises(RuntimeError, match="already running"):
        desktop.stream.start()
    with pytest.raises(RuntimeError, match="auth key"):
        desktop.stream.get_auth_key()
    desktop.stream.stop()
    desktop.commands.run("! pgrep x11vnc")


def test_the_stream_of_a_window_with_a_password(desktop: Sandbox) -> None:
    window = desktop.get_application_windows("chromium")[0]
    desktop.stream.start(window_id=window, require_auth=True)
    key = desktop.stream.get_auth_key()
    assert len(key) == 16 and desktop.stream.get_url(auth_key=key).endswith(f"&password={key}")
    assert security(desktop) == PASSWORD
    desktop.stream.stop()
