"""Faults at the system's steps, for tests of the store, also in processes of their own."""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

STEPS = ("open", "write", "fsync", "link", "rename", "mkdir")


class Fault:
    """Makes the n-th call of one system function fail; after a crash every later one fails too.

    Attributes
    ----------
    calls : int
        Of that function so far.
    """

    def __init__(self, step: str, number: int, *, is_crash: bool, code: int = errno.ENOSPC) -> None:
        self.step, self.number, self.is_crash, self.code = step, number, is_crash, code
        self.calls = 0
        self.is_dead = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for step in (*STEPS, "unlink", "rmdir"):
            monkeypatch.setattr(os, step, self.wrap(step, getattr(os, step)))

    def wrap(self, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            is_write = step != "open" or bool(arguments[1] & os.O_WRONLY)
            if step == self.step and is_write:
                self.calls += 1
                if self.calls == self.number:
                    self.is_dead = self.is_crash
                    if step == "write":  # torn: half of it arrives
                        plain(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
                    raise OSError(self.code, os.strerror(self.code))
            if self.is_dead and is_write:
                raise OSError(errno.EIO, "dead")
            return None if step == "fsync" else plain(*arguments, **options)  # fsync: only time

        return wrapped
