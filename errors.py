"""Every error that toptune raises on purpose.

::

    ToptuneError
    ├── InputError (ValueError)                 what the caller gave cannot be used
    │   ├── FoldsError                          nothing can be left out of training
    │   ├── UnreadableImageError                one image; recorded, the run goes on
    │   └── WeightsError                        weights do not fit the architecture
    ├── StoreError (OSError)                    the feature store
    │   ├── StoreNotFoundError (FileNotFoundError)
    │   ├── FormatVersionError                  written by another version of the format
    │   ├── ConflictError                       the name is taken by other content
    │   ├── IncompleteError                     units are missing
    │   └── CorruptError                        bytes differ from their checksum
    ├── NumericalError (ArithmeticError)        not positive definite, overflow, no convergence
    ├── DeviceMemoryError (MemoryError)         a device's memory was full while it computed
    └── InterruptedRunError                     stopped early; the same command resumes

Each class is also a subclass of the nearest builtin, so that callers need not know toptune to catch it.
A message says what was wrong, the value, the limit and the next step. Messages are for people: the program
decides by classes and attributes only.
"""

import re
from pathlib import Path

# A byte that is no UTF-8 in a path that a message quotes, as `repr` writes it.
_QUOTED_BYTE = re.compile(r"(?<!\\)((?:\\\\)*)\\udc([89a-f][0-9a-f])")


class ToptuneError(Exception):
    """Root of the tree; the command line exits with ``exit_code``.

    Parameters
    ----------
    message : str
        What was wrong, the value, the limit and the next step.
    option : str, optional
        Keyword whose value is at fault, so that the command line can show the message as that of its option.
    code : str, optional
        Code of the refusal, in place of that of its class; see `toptune.codes`.

    Attributes
    ----------
    code : str
        Stands behind the message wherever the message is shown, and leads to docs/reference/warnings.md.
    """

    exit_code = 1
    code = "TT900"

    def __init__(self, message: str = "", *, option: str | None = None, code: str | None = None) -> None:
        # Such bytes have one form in every output.
        super().__init__(_QUOTED_BYTE.sub(r"\1\\x\2", message))
        self.option = option
        if code is not None:
            self.code = code
        # Python writes this line below the message of a traceback.
        self.add_note(f"[{self.code}]")

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows in the place of a traceback: IPython calls this method.

        The message says what to do; the frames of toptune say nothing to who made a mistake in a cell.
        ``%debug`` still leads to them.
        """
        return [f"{type(self).__name__}: {self} [{self.code}]"]


class InputError(ToptuneError, ValueError):
    """What the caller gave cannot be used."""

    code = "TT901"
    exit_code = 2


class FoldsError(InputError):
    """Fewer than two classes have training rows in more than one fold, so that nothing can be left out."""

    code = "TT902"


class UnreadableImageError(InputError):
    """One image cannot be decoded."""

    code = "TT903"


class WeightsError(InputError):
    """Weights are absent, or do not fit the architecture."""

    code = "TT904"


class StoreError(ToptuneError, OSError):
    """The store cannot do what was asked.

    Parameters
    ----------
    message : str
        What was wrong, the value, the limit and the next step; names the file once.
    path : Path, optional
        File or folder at fault, where there is one.
    option, code : str, optional
        Keyword whose value is at fault, and the code of the refusal.

    Attributes
    ----------
    path : Path or None
        File or folder at fault: what `verify` blames and `repair` acts on. ``OSError.filename`` is not used,
        because Python would add it to the message.
    """

    code = "TT905"

    def __init__(
        self,
        message: str,
        path: Path | None = None,
        *,
        option: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, option=option, code=code)
        self.path = path


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store, data set or cache at that name."""

    code = "TT906"
    exit_code = 2


class FormatVersionError(StoreError):
    """The store was written in a version of the format that this toptune cannot read."""

    code = "TT907"
    exit_code = 2


class ConflictError(StoreError):
    """A name in the store is taken by other content."""

    code = "TT908"
    exit_code = 2


class IncompleteError(StoreError):
    """Units that were asked for have not been committed."""

    code = "TT909"


class CorruptError(StoreError):
    """Bytes on disk differ from what was committed."""

    code = "TT910"


class NumericalError(ToptuneError, ArithmeticError):
    """A computation lost its meaning: not positive definite, overflow, no convergence."""

    code = "TT911"


class DeviceMemoryError(ToptuneError, MemoryError):
    """The memory of a device was full while the device computed."""

    code = "TT912"

    def __new__(cls, *args: object, **_: object) -> "DeviceMemoryError":
        # Python refuses `MemoryError.__new__` for a class of two bases, and a dask client calls it with an
        # error from a worker.
        return Exception.__new__(cls, *args)


class InterruptedRunError(ToptuneError):
    """The run stopped before its end; what is committed stays, and the same command resumes."""

    code = "TT913"
    exit_code = 3
