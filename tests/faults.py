"""Faults at the system's steps, for tests of the store, also in processes of their own."""

import errno
import os
import sys
from collections.abc import Callable
from types import FrameType
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


# Steps between which a process can stand still: of a disk, and of a bucket.
DISK_STEPS = ("open", "link", "rename", "mkdir", "unlink", "rmdir", "stat", "utime")
BUCKET_STEPS = ("put", "get", "head", "delete", "list", "list_with_delimiter", "copy")


class Stall:
    """Lets `meanwhile` happen before the n-th step of this process, as if the process had stood still.

    Attributes
    ----------
    kinds : list of (str, str)
        Of each step so far, the system's function and the function of toptune that calls it.
    """

    def __init__(
        self, number: int, meanwhile: Callable[[], object], *, only: tuple[str, ...] = DISK_STEPS
    ) -> None:
        self.number, self.meanwhile, self.only = number, meanwhile, only
        self.kinds: list[tuple[str, str]] = []
        self._is_away = False

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # One thread, so that all of the process stands still.
        monkeypatch.setattr("toptune.store.arrays.unit_commit.PARALLEL_WRITES", 1)
        modules: dict[Any, tuple[str, ...]] = {os: tuple(step for step in self.only if step in DISK_STEPS)}
        if set(self.only) & set(BUCKET_STEPS):
            import obstore

            modules[obstore] = tuple(step for step in self.only if step in BUCKET_STEPS)
        for module, names in modules.items():
            for name in names:
                monkeypatch.setattr(module, name, self._wrap(name, getattr(module, name)))

    def _wrap(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if not self._is_away:
                self.kinds.append((name, _caller()))
                if len(self.kinds) == self.number:
                    self._is_away = True
                    self.meanwhile()
                    self._is_away = False
            return plain(*arguments, **options)

        return wrapped


def _caller() -> str:
    """Return the function of the store that is at work, past those of pathlib and of the tests."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not frame.f_globals["__name__"].startswith("toptune.store"):
        frame = frame.f_back
    return frame.f_code.co_qualname if frame else ""
