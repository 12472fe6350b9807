"""Plain data and numpy arrays in a pickle, without ever executing it.

CIFAR's batches are pickles, and a pickle is a program. This reads the few instructions that build texts,
numbers, lists, dictionaries and numpy arrays of integers, with the arguments' own readers from `pickletools`,
the standard library's description of the format. Instructions that could import, call or build anything else
are refused by name. Nothing is imported and nothing is called: the few functions that such files name are
only recognised.
"""

import mmap
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from toptune.store import InputError

MAX_FILE_BYTES = 2**30
# Longer texts of bytes stay where they lie in the file.
_SHORT_BYTES = 256
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_LENGTHS = {
    "BINSTRING": 4,
    "BINBYTES": 4,
    "BINBYTES8": 8,
    "BYTEARRAY8": 8,
    "SHORT_BINSTRING": 1,
    "SHORT_BINBYTES": 1,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
)
_FUNCTIONS = {
    **dict.fromkeys(
        (f"{package}.multiarray _reconstruct" for package in ("numpy.core", "numpy._core")), "array"
    ),
    **dict.fromkeys(
        (f"{package}.numeric _frombuffer" for package in ("numpy.core", "numpy._core")), "buffer"
    ),
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}


@dataclass(frozen=True)
class _Function:
    kind: str


@dataclass
class _Dtype:
    name: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        if self.name not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "b1"):
            raise ValueError(f"an array of {self.name!r}; only integers are read")
        return np.dtype(f"{self.order if self.order in ('<', '>') else ''}{self.name}")


@dataclass
class _Array:
    values: npt.NDArray[Any] | None = None


class _Mark:
    pass


def read_plain_pickle(path: Path) -> dict[str, Any]:
    """Read a dictionary of texts, numbers, lists and arrays; arrays stay mapped from the file where they can.

    Raises
    ------
    InputError
        If the pickle holds anything else (the message names it), is cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if not 0 < n_bytes <= MAX_FILE_BYTES:
                raise InputError(f"{path} has {n_bytes} bytes; a batch of pictures has 1 to {MAX_FILE_BYTES}")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        value = _Machine(data, path).run()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is cut off, damaged or no pickle of pictures: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not the dictionary of a batch of pictures")
    return {_text(key): _finished(each, path) for key, each in value.items()}


class _Machine:
    """A stack, a memo and the file; see the module `pickletools` for what each instruction does."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path = data, path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.encoded_bytes = 0

    def run(self) -> Any:
        while True:
            place = self.data.tell()
            code = self.data.read(1)
            opcode = _OPCODES.get(code)
            if opcode is None:
                what = f"unknown instruction {code!r}" if code else "no end"
                raise ValueError(f"{what} at byte {place}")
            name = opcode.name
            if name in _LENGTHS:
                self.stack.append(self._bytes(_LENGTHS[name]))
                continue
            if name == "STOP":
                return self.stack.pop()
            if name not in _ALLOWED:
                self.refuse(f"the instruction {name}")
            argument = self._argument(opcode)
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _STEPS:
                _STEPS[name](self, argument)

    def refuse(self, what: str) -> NoReturn:
        raise InputError(
            f"{self.path} holds {what}, which pictures do not need; a pickle can run programs, so only "
            "texts, "
            "numbers, lists, dictionaries and arrays of integers are read: convert the file yourself if you "
            "trust it, for instance to .npz"
        )

    def encode(self, text: str) -> bytes:
        """Turn a text into bytes; all of them together no longer than a file may be."""
        self.encoded_bytes += len(text)
        if self.encoded_bytes > MAX_FILE_BYTES:
            raise ValueError(f"it would make more than {MAX_FILE_BYTES} bytes")
        return text.encode("latin-1")

    def pop_mark(self) -> list[Any]:
        found = []
        while not isinstance(each := self.stack.pop(), _Mark):
            found.append(each)
        return found[::-1]

    def _argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        if opcode.name == "GLOBAL":  # the reader of pickletools would resolve escapes in it
            return " ".join(self.data.readline().rstrip(b"\n").decode("ascii") for _ in range(2))
        reader: Any = None if opcode.arg is None else opcode.arg.reader
        return None if reader is None else reader(self.data)

    def _bytes(self, length_bytes: int) -> bytes | memoryview:
        n_bytes = int.from_bytes(self.data.read(length_bytes), "little")
        place = self.data.tell()
        if place + n_bytes > len(self.data):
            raise ValueError(f"{n_bytes} bytes should follow byte {place}, and the file ends before")
        self.data.seek(n_bytes, os.SEEK_CUR)
        if n_bytes <= _SHORT_BYTES:
            return self.data[place : place + n_bytes]
        return memoryview(self.data)[place : place + n_bytes]


def _name_function(machine: _Machine, name: str) -> None:
    kind = _FUNCTIONS.get(name)
    if kind is None:
        machine.refuse(f"{name.replace(' ', '.')!r}")
    machine.stack.append(_Function(str(kind)))


def _stack_function(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    _name_function(machine, f"{_text(module)} {_text(name)}")


def _call(machine: _Machine, _: Any) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    kind = function.kind if isinstance(function, _Function) else None
    if kind == "array":
        machine.stack.append(_Array())
    elif kind == "dtype":
        machine.stack.append(_Dtype(_text(arguments[0])))
    elif kind == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
        machine.stack.append(machine.encode(arguments[0]))
    elif kind == "buffer":
        raw, dtype, shape, order = arguments
        machine.stack.append(_Array(_array(raw, dtype, shape, _text(order) == "F")))
    else:
        machine.refuse("a call")


def _build(machine: _Machine, _: Any) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if isinstance(target, _Dtype):
        target.order = _text(state[1])
    elif isinstance(target, _Array):
        _, shape, dtype, is_fortran, raw = state
        target.values = _array(raw, dtype, shape, is_fortran)
    else:
        machine.refuse("the state of an object")


def _array(raw: Any, dtype: Any, shape: Any, is_fortran: bool) -> npt.NDArray[Any]:
    is_shape = isinstance(shape, tuple) and all(type(length) is int for length in shape)
    if not isinstance(raw, bytes | memoryview) or not isinstance(dtype, _Dtype) or not is_shape:
        raise ValueError("an array whose values are not bytes")
    return np.frombuffer(raw, dtype=dtype.numpy()).reshape(shape, order="F" if is_fortran else "C")


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict):
        machine.refuse("items of an object")
    # Texts only: hashing what nests itself can take for ever.
    target.update(zip([_text(key) for key in pairs[::2]], pairs[1::2], strict=True))


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        machine.refuse("items of an object")
    target.extend(values)


def _tuple(machine: _Machine, length: int) -> None:
    values = tuple(machine.stack[-length:])
    if len(values) < length:
        raise IndexError("the stack is empty")
    machine.stack[-length:] = [values]


def _two(machine: _Machine) -> list[Any]:
    value, key = machine.stack.pop(), machine.stack.pop()
    return [key, value]


def _remember(machine: _Machine, place: Any) -> None:
    machine.memo[len(machine.memo) if place is None else int(place)] = machine.stack[-1]


_STEPS: dict[str, Any] = {
    "MARK": lambda machine, _: machine.stack.append(_Mark()),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: _tuple(machine, 1),
    "TUPLE2": lambda machine, _: _tuple(machine, 2),
    "TUPLE3": lambda machine, _: _tuple(machine, 3),
    "APPEND": lambda machine, _: _append(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "SETITEM": lambda machine, _: _set_items(machine, _two(machine)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.pop_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, place: machine.stack.append(machine.memo[place])
    ),
    "GLOBAL": _name_function,
    "STACK_GLOBAL": _stack_function,
    "REDUCE": _call,
    "BUILD": _build,
}
_ALLOWED = _VALUES | _CONSTANTS.keys() | _STEPS.keys() | {"PROTO", "FRAME"}


def _text(value: Any) -> str:
    """Python 2's texts are bytes."""
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("latin-1")
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where a text should be")
    return value


def _finished(value: Any, path: Path) -> Any:
    """Take arrays out of their holders; lists in lists are left as they are, they may hold themselves."""
    if isinstance(value, _Array):
        if value.values is None:
            raise InputError(f"{path} has an array without values; it is damaged: copy it again")
        return value.values
    if isinstance(value, list):
        return [_text(each) if isinstance(each, bytes | memoryview) else each for each in value]
    return _text(value) if isinstance(value, bytes | memoryview) else value
