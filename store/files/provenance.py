"""Who made a file, when and where; recorded beside the numbers, never as a part of a recipe."""

import getpass
import importlib.metadata
import os
import socket
from datetime import UTC, datetime


def provenance() -> dict[str, str]:
    """Return ``who``, ``when`` (UTC, ISO 8601), ``where`` and ``toptune`` (version)."""
    return {
        "who": _user(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "where": socket.gethostname(),
        "toptune": _version(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"uid {os.getuid()}"  # Containers run as users that no database knows.


def _version() -> str:
    try:
        return importlib.metadata.version("toptune")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
