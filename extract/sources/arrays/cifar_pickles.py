"""CIFAR's batches are pickles; they are read with stand-ins for numpy, so that no code in them runs.

A pickle is a program. Python's own unpickler runs it here, and every function that a pickle names must pass
`find_class`, which admits the names that numpy's arrays and bytes need. The names stand for classes of this
module that check their arguments: numpy's own `dtype` would take flags from the file with which bytes count
as pointers. A hostile file could still take time and memory, which `_check_instructions` prevents.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError

MAX_FILE_BYTES = 2**30
# A batch needs about ten tuples beside the arguments of calls; hashing deeply nested tuples exhausts the
# stack.
MAX_TUPLES = 100
_INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "b1")
_TEXTS = {
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"BINGET", "LONG_BINGET"}
# The memo may return what these make twice. Containers are excluded so that none can contain itself.
_SHARED = _TEXTS | {"GLOBAL", "STACK_GLOBAL", "REDUCE"}
_INSTRUCTIONS = {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BUILD"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *(_SHARED | _TUPLES | _PUTS | _GETS),
}


class _StandIn:
    """The class that a name in a pickle stands for; the base stands for `numpy.ndarray`, never called.

    The instruction BUILD calls ``__setstate__`` where there is one, and then sets no attributes, neither of
    instances nor of classes.
    """

    __slots__ = ()

    def __init__(self, *_: object) -> None:
        raise ValueError("a call of numpy.ndarray")

    def __setstate__(self, state: object) -> None:
        raise ValueError("a state of what has none")


class _Dtype(_StandIn):
    __slots__ = ("name", "order")

    def __init__(self, name: object, *_: object) -> None:
        self.name, self.order = _text(name), "|"
        if self.name not in _INTEGERS:
            raise ValueError(f"an array of {self.name!r}; only integers are read")

    def __setstate__(self, state: object) -> None:
        self.order = _text(_tuple(state)[1])

    def numpy(self) -> np.dtype[np.generic]:
        return np.dtype(f"{self.order if self.order in ('<', '>') else ''}{self.name}")


class _Array(_StandIn):
    """An array as `_reconstruct` makes arrays: without values until the state follows."""

    __slots__ = ("values",)

    def __init__(self, *_: object) -> None:
        self.values: npt.NDArray[np.generic] | None = None

    def __setstate__(self, state: object) -> None:
        _, shape, dtype, is_fortran, raw = _tuple(state)
        self.values = _integers(raw, dtype, shape, is_fortran)


class _Buffer(_Array):
    """An array of protocol 5, which is made in one call."""

    __slots__ = ()

    def __init__(self, raw: object, dtype: object, shape: object, order: object) -> None:
        self.values = _integers(raw, dtype, shape, _text(order) == "F")


class _Encoder(_StandIn):
    """Stands for ``_codecs.encode``, which makes bytes in protocol 2, with a limit on all bytes together."""

    __slots__ = ("n_bytes",)

    def __init__(self) -> None:
        self.n_bytes = 0

    def __call__(self, text: str, encoding: object) -> bytes:
        if _text(encoding) != "latin1":
            raise ValueError(f"the encoding {encoding!r}")
        self.n_bytes += len(text)
        if self.n_bytes > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES} bytes made of texts")
        return text.encode("latin-1")


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")
        self.admitted: dict[str, object] = {
            "numpy.ndarray": _StandIn,
            "numpy.dtype": _Dtype,
            "_codecs.encode": _Encoder(),
        }
        for package in ("numpy.core", "numpy._core"):
            self.admitted[f"{package}.multiarray._reconstruct"] = _Array
            self.admitted[f"{package}.numeric._frombuffer"] = _Buffer

    def find_class(self, module: str, name: str, /) -> Any:
        if f"{module}.{name}" not in self.admitted:
            raise ValueError(f"the name '{module}.{name}'")
        return self.admitted[f"{module}.{name}"]


def read_cifar_pickle(path: Path) -> dict[str, Any]:
    """Read a dictionary of texts, numbers, lists and arrays of integers.

    Raises
    ------
    InputError
        If the pickle is cut off or damaged, or holds anything else, which the message names.
    """
    try:
        n_bytes = path.stat().st_size
        if not 0 < n_bytes <= MAX_FILE_BYTES:
            raise InputError(f"{path} has {n_bytes} bytes; a batch of images has 1 to {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        _check_instructions(data)
        value = _Unpickler(io.BytesIO(data)).load()
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} and not a dictionary")
        return {_text(key): _finished(each) for key, each in value.items()}
    # Damaged bytes can raise nearly any error in `pickletools`, in the unpickler and in the classes above.
    except Exception as error:
        raise InputError(
            f"{path} is cut off, damaged, or no batch of images as CIFAR's authors pickled them: it holds "
            f"{error or type(error).__name__}; a pickle can run programs, so only texts, numbers, lists, "
            "dictionaries and arrays of integers are read: copy the file again, or, if you trust it, convert "
            "it yourself, for instance to .npz"
        ) from error


def _check_instructions(data: bytes) -> None:
    """Refuse instructions that batches never contain, that would fill memory or that would never end.

    A place in the memo may be any number, and the unpickler makes room up to that number. A tuple that holds
    another tuple twice, n deep, is hashed in 2**n steps if it is a key.
    """
    memo: dict[object, bool] = {}  # by place: whether the value there may be used again
    n_tuples, before = 0, ""
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name not in _INSTRUCTIONS:
            raise ValueError(f"the instruction {name}")
        n_tuples += name in _TUPLES
        if n_tuples > MAX_TUPLES:
            raise ValueError(f"more than {MAX_TUPLES} tuples")
        if name in _PUTS:
            place = len(memo) if argument is None else argument
            if place > len(data):
                raise ValueError(f"the place {place} in the memo of a file of {len(data)} bytes")
            memo[place] = before in _SHARED
        elif name in _GETS and not memo.get(argument):
            raise ValueError("a container in two places")
        elif name == "REDUCE":
            n_tuples -= before in _TUPLES  # the arguments of a call are in no other tuple
        if name not in _PUTS and name != "FRAME":  # these instructions leave the last value on the stack
            before = name


def _integers(raw: object, dtype: object, shape: object, is_fortran: object) -> npt.NDArray[np.generic]:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype) or not _is_shape(shape):
        raise ValueError("an array whose values are not bytes")
    return np.frombuffer(raw, dtype=dtype.numpy()).reshape(shape, order="F" if is_fortran else "C")


def _is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and all(type(length) is int for length in value)


def _tuple(state: object) -> tuple[object, ...]:
    if not isinstance(state, tuple):
        raise TypeError(f"a state that is a {type(state).__name__}")
    return state


def _text(value: object) -> str:
    """Return a text; the texts of Python 2 are bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where a text should be")
    return value


def _finished(value: object) -> object:
    """Replace stand-ins by their arrays and bytes by texts; lists in lists are left as they are."""
    if isinstance(value, _Array):
        if value.values is None:
            raise ValueError("an array without values")
        return value.values
    if isinstance(value, list):
        return [_text(each) if isinstance(each, bytes) else each for each in value]
    return _text(value) if isinstance(value, bytes) else value
