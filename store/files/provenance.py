"""Who made something, when and where: recorded beside the numbers, never part of their identity."""

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
        return f"uid {os.getuid()}"  # containers run as users that no database knows


def _version() -> str:
    try:
        return importlib.metadata.version("toptune")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
