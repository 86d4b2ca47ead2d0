"""The page: one file, which the browser lets do nothing but what it was written to do."""

import hashlib
import re
from base64 import b64encode
from pathlib import Path

from fastapi import Response

_FILE = Path(__file__).with_name("page.html")
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


def page_response() -> Response:
    """The page with its Content-Security-Policy: its own script and style, by their digests, this server, no other.

    blob: is what the page itself has made: recordings to be played, and the code that taps the microphone.
    """
    content = _FILE.read_bytes()
    digests: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for tag, text in _INLINE.findall(content):
        digests[tag].append(f"'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'")
    policy = ["default-src 'none'", f"script-src {' '.join(digests[b'script'])} blob:",
              f"style-src {' '.join(digests[b'style'])}", "connect-src 'self'", "media-src blob:", "img-src data:",
              "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    return Response(content, media_type="text/html; charset=utf-8",
                    headers={"Content-Security-Policy": "; ".join(policy),
                             "Permissions-Policy": "microphone=(self), camera=(), geolocation=()"})
