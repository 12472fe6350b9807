"""Faults at the system's steps, for tests of the store, also in processes of their own."""

import errno
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from toptune.store import StoreError

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
        _before_steps(monkeypatch, self.only, self._before)

    def _before(self, name: str) -> None:
        if self._is_away:
            return
        self.kinds.append((name, _caller()))
        if len(self.kinds) == self.number:
            self._is_away = True
            self.meanwhile()
            self._is_away = False


_OTHER = {"one": "other", "other": "one"}


class Turns:
    """Two acts in turn: one stands still, the other stands still, one ends, the other ends.

    Attributes
    ----------
    errors : dict of str to Exception
        What ended ``one`` or ``other`` before its end.
    steps : dict of str to int
        Steps of each so far; none are counted when the other act is over.
    """

    def __init__(self, one: Callable[[], object], number: int, other: Callable[[], object], its_number: int):
        self.acts = {"one": (one, number), "other": (other, its_number)}
        self.errors: dict[str, Exception] = {}
        self.steps = {"one": 0, "other": 0}
        self._over: set[str] = set()
        self._faults: list[Exception] = []
        self._may_go = {"one": threading.Semaphore(1), "other": threading.Semaphore(0)}

    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Do both acts; `one` stands still before its step `number`, and `other` before `its_number`."""
        _before_steps(monkeypatch, DISK_STEPS, self._before)
        threads = [threading.Thread(target=self._act, args=(name,), name=name) for name in self.acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in self._faults:
            raise error

    def _act(self, name: str) -> None:
        self._may_go[name].acquire()
        try:
            self.acts[name][0]()
        except StoreError as error:
            self.errors[name] = error
        except Exception as error:  # noqa: BLE001 (raised where the test sees it)
            self._faults.append(error)
        finally:
            self._over.add(name)
            self._may_go[_OTHER[name]].release()

    def _before(self, _: str) -> None:
        name = threading.current_thread().name
        if name not in self.acts or _OTHER[name] in self._over:
            return
        self.steps[name] += 1
        if self.steps[name] == self.acts[name][1]:
            self._may_go[_OTHER[name]].release()
            self._may_go[name].acquire()


def _before_steps(
    monkeypatch: pytest.MonkeyPatch, only: tuple[str, ...], before: Callable[[str], None]
) -> None:
    """Call `before` with a step's name before each step of the system."""
    # The act's own thread does everything, so that all of the process stands still.
    for module in ("arrays.unit_commit", "features.feature_cache"):
        monkeypatch.setattr(f"toptune.store.{module}.in_parallel", lambda do, items: [do(i) for i in items])
    modules: dict[Any, tuple[str, ...]] = {os: tuple(step for step in only if step in DISK_STEPS)}
    if set(only) & set(BUCKET_STEPS):
        import obstore

        modules[obstore] = tuple(step for step in only if step in BUCKET_STEPS)

    def wrap(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            before(name)
            return plain(*arguments, **options)

        return wrapped

    for module, names in modules.items():
        for name in names:
            monkeypatch.setattr(module, name, wrap(name, getattr(module, name)))


def _caller() -> str:
    """Return the function of the store that is at work, past those of pathlib and of the tests."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not frame.f_globals["__name__"].startswith("toptune.store"):
        frame = frame.f_back
    return frame.f_code.co_qualname if frame else ""
