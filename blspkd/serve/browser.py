"""Opens the page in a browser, where somebody sits before one."""

import os
import sys
import webbrowser


def open_page(address: str) -> bool:
    """Whether a browser was started. Not over ssh, and not in a text terminal, which a browser would take over."""
    is_seen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not is_seen or os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False
