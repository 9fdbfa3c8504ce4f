"""Pictures by address, fetched for a stranger: only from the public internet, and never more than is sensible.

A server that fetches what it is told to is a way into the network it stands in. So the name is resolved once, every
address it has must be public, the connection goes to an address that was checked (a second look-up could say something
else), and each redirect starts over. No proxy is used: it would resolve the name again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urljoin, urlsplit

from qllava.serve.api_error import ApiError, invalid

Resolve = Callable[[str, int], Awaitable[list[str]]]

MAX_BYTES = 20 << 20
TIMEOUT = 20.0
_MAX_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_PORTS = {"http": 80, "https": 443}
# Addresses in IPv6 clothes that lead to IPv4 ones: NAT64 and 6to4.
_DISGUISED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, and not to a machine, a link, or a private network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in network for network in _DISGUISED):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host.

    Raises:
        OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def fetch_picture(
    url: str,
    param: str,
    *,
    max_bytes: int = MAX_BYTES,
    timeout: float = TIMEOUT,
    resolve: Resolve = resolve,
    allowed: Callable[[str], bool] = is_public,
) -> bytes:
    """Download a file over http or https.

    Args:
        url: where it is.
        param: named in complaints.
        max_bytes: of the file.
        timeout: for all of it, redirects included; seconds.
        resolve: looks a host up; asked once for each hop.
        allowed: which addresses may be connected to.

    Raises:
        ApiError: no such address, one that is not public, too large, too slow, or an error of the other server.
    """
    try:
        async with asyncio.timeout(timeout):
            for _ in range(_MAX_REDIRECTS + 1):
                found = await _get(url, param, max_bytes, resolve, allowed)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
    except TimeoutError:
        raise _bad(f"it did not arrive within {timeout:g} s", param) from None
    raise _bad(f"more than {_MAX_REDIRECTS} redirects", param)


async def _get(url: str, param: str, max_bytes: int, resolve: Resolve, allowed: Callable[[str], bool]) -> bytes | str:
    """The file, or where a redirect points."""
    import httpx2  # noqa: PLC0415 - only servers with --allow-remote-images need it

    scheme, host, port, path = _parts(url, param)
    try:
        addresses = await resolve(host, port)
    except (OSError, UnicodeError):
        addresses = []
    # All of them: which of several is connected to is not the client's to choose.
    if not addresses or not all(map(allowed, addresses)):
        raise _bad("its host has no address, or one that is not public", param)
    address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    named = f"[{host}]" if ":" in host else host
    headers = {
        "Host": named if port == _PORTS[scheme] else f"{named}:{port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
    }
    try:
        async with (
            httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=None) as client,
            # The certificate must be the name's, wherever the name led.
            client.stream(
                "GET", f"{scheme}://{address}:{port}{path}", headers=headers, extensions={"sni_hostname": host}
            ) as response,
        ):
            if response.status_code in _REDIRECTS and "location" in response.headers:
                return response.headers["location"]
            if response.status_code != 200:
                raise _bad(f"its server answers with status {response.status_code}", param)
            content = bytearray()
            async for piece in response.aiter_raw(1 << 16):
                content += piece
                if len(content) > max_bytes:
                    raise _bad(f"it is larger than {max_bytes:,} bytes; send a smaller one", param)
            return bytes(content)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        # The kind only: texts of network errors tell what the network behind this server looks like.
        raise _bad(f"it cannot be fetched ({type(error).__name__})", param) from None


def _parts(url: str, param: str) -> tuple[str, str, int, str]:
    """(scheme, host, port, path with query)."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise _bad("it is no valid URL", param) from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise _bad("only http:// and https:// addresses without a user name are fetched", param)
    return parts.scheme, parts.hostname, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _bad(complaint: str, param: str) -> ApiError:
    return invalid(f"{param}: the picture is refused: {complaint}", param, "invalid_image_url")
