import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qllava.serve.api_error import ApiError
from qllava.serve.remote import fetch_picture, is_public, resolve

FILE = b"a picture" * 10_000


class Host(BaseHTTPRequestHandler):
    """A small web server; what it was asked stands in `asked`."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.headers["Host"], self.path))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/gone":
            self.send_error(404)
        elif self.path == "/slow":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(5)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(FILE)))
            self.end_headers()
            self.wfile.write(FILE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def host() -> Iterator[int]:
    """Its port."""
    Host.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def fetch(url: str, lookups: list[str], *, allowed: object = None, **limits: float) -> bytes:
    """As the server fetches, but `*.example` leads to this machine, and this machine may be asked."""

    async def look_up(name: str, port: int) -> list[str]:
        lookups.append(name)
        return ["127.0.0.1"] if name.endswith(".example") else await resolve(name, port)

    chosen = (lambda ip: ip == "127.0.0.1") if allowed is None else is_public
    return asyncio.run(fetch_picture(url, "x", resolve=look_up, allowed=chosen, **limits))  # type: ignore[arg-type]


def test_the_name_is_looked_up_once_and_that_address_is_asked_for_it(host: int) -> None:
    lookups: list[str] = []
    assert fetch(f"http://pictures.example:{host}/a.png?b=c", lookups) == FILE
    assert lookups == ["pictures.example"]
    assert Host.asked == [(f"pictures.example:{host}", "/a.png?b=c")]


def test_redirects_start_over_and_end(host: int) -> None:
    lookups: list[str] = []
    assert fetch(f"http://one.example:{host}/to/http://two.example:{host}/b.png", lookups) == FILE
    assert lookups == ["one.example", "two.example"]
    assert fetch(f"http://one.example:{host}/to//c.png", []) == FILE
    with pytest.raises(ApiError, match="more than 3 redirects"):
        fetch(f"http://one.example:{host}/to//to//to//to//to//d.png", [])
    Host.asked.clear()
    with pytest.raises(ApiError, match="its host has no address, or one that is not public"):
        fetch(f"http://one.example:{host}/to/http://169.254.169.254/latest", [])
    with pytest.raises(ApiError, match="only http:// and https://"):
        fetch(f"http://one.example:{host}/to/file:///etc/passwd", [])
    assert len(Host.asked) == 2


def test_size_time_and_errors_are_bounded(host: int) -> None:
    with pytest.raises(ApiError, match="it is larger than 1,000 bytes"):
        fetch(f"http://a.example:{host}/x", [], max_bytes=1000)
    started = time.monotonic()
    with pytest.raises(ApiError, match=r"it did not arrive within 0.5 s"):
        fetch(f"http://a.example:{host}/slow", [], timeout=0.5)
    assert time.monotonic() - started < 4
    with pytest.raises(ApiError, match="its server answers with status 404"):
        fetch(f"http://a.example:{host}/gone", [])
    with pytest.raises(ApiError, match=r"it cannot be fetched \(ConnectError\)"):
        fetch("http://a.example:1/", [])
    with pytest.raises(ApiError, match=r"it cannot be fetched \(ConnectError\)"):
        fetch(f"https://a.example:{host}/", [])  # no TLS there


@pytest.mark.parametrize(
    "name",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f.1", "127.1"],  # noqa: S104
)
def test_this_machine_is_never_asked(host: int, name: str) -> None:
    with pytest.raises(ApiError, match="its host has no address, or one that is not public"):
        fetch(f"http://{name}:{host}/a.png", [], allowed=is_public)
    assert Host.asked == []


def test_what_is_public() -> None:
    public = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8"]
    private = [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),  # noqa: S104
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    ]
    assert [address for address in public if not is_public(address)] == []
    assert [address for address in private if is_public(address)] == []


def test_one_private_address_among_several_is_enough_to_refuse() -> None:
    async def both(_name: str, _port: int) -> list[str]:
        return ["8.8.8.8", "127.0.0.1"]

    with pytest.raises(ApiError, match="one that is not public"):
        asyncio.run(fetch_picture("http://a.example/", "x", resolve=both))


@pytest.mark.parametrize(
    "url", ["http://u:p@a.example/", "http://a.example:99999/", "http://[/", "ftp://a.example/", "x"]
)
def test_odd_addresses_are_refused(url: str) -> None:
    with pytest.raises(ApiError, match="the picture is refused: "):
        fetch(url, [])
