"""A pretended CUDA device, so that a machine without a GPU can test where tensors lie and who waits for whom.

The numbers lie in ordinary CPU tensors, and a wrapper around each tensor says that it lies on ``cuda:0``.
Five kinds of faults come to light that a CPU forgives:

- A torch function refuses tensors of several devices. As on CUDA, 0-dimensional CPU tensors and CPU indices
  are let through.
- ``.numpy()`` of a tensor on the device is refused.
- A copy to main memory with ``non_blocking=True`` holds NaN, or an odd value where the type has no NaN, until
  the host has waited for the device.
- What one stream computes cannot be used in another stream that has not waited for it, memory cannot be
  given back while another stream uses it, and page-locked memory cannot be written to while a copy reads it.
- Every operation on the device, and everything that makes the host wait for the device, is counted; so are
  the bytes of the tensors that lie there, without what operations need inside.

The pretended device shows nothing of kernels that round differently, or of time. A test says::

    with fake_cuda() as counts:
        torch.ones(3, device="cuda") + torch.ones(3)  # raises RuntimeError, as a GPU does

``pytest --on fake-cuda FILES`` runs existing tests on the pretended device; see `other_device`.
"""

import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import fake_streams
import numpy as np
import torch
from fake_streams import Stream
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)
# What the device says of its memory; tests of other sizes replace `torch.cuda.mem_get_info` inside.
FREE_BYTES, TOTAL_BYTES = 60 * 2**30, 80 * 2**30
_as_plain: Callable[[], Any] = torch._C.DisableTorchFunction  # the wrappers' own rules are off inside


@dataclass
class Counts:
    """What the device was asked to do, and how often the host waited for it."""

    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    # Waits by the line of toptune that caused them, as "toptune.train.passes.sums:212 item".
    places: Counter[str] = field(default_factory=Counter)
    # Bytes of the tensors that lie there now, and the most that lay there at once.
    live_bytes: int = 0
    peak_bytes: int = 0
    # How often memory was page-locked.
    pinned: int = 0
    # Faults that nobody could be told of when they happened.
    faults: list[str] = field(default_factory=list)

    def clear(self) -> None:
        for counter in (self.operations, self.waits, self.places):
            counter.clear()
        self.peak_bytes, self.pinned = self.live_bytes, 0


_counts = Counts()
_has_float64 = True
# The collector of garbage runs in any thread, and gives memory back there while another thread takes some;
# also in the thread that holds the lock.
_books = threading.RLock()
# How many wrappers share each piece of memory, by the piece's address.
_sharing: Counter[int] = Counter()
# Copies to main memory that have not arrived yet: where they go, the values that will be there, and the
# number of the copy in its stream.
_under_way: list[tuple[Tensor, Tensor, Stream, int]] = []
# Copies from page-locked memory that may not have begun yet: the memory and its values.
_leaving: list[tuple[Tensor, Tensor, Stream, int]] = []
_locked: list[Tensor] = []


@dataclass
class _Memory:
    """A piece of the device's memory: who gave it away, who wrote to it last, and who has used it."""

    home: Stream
    written: tuple[Stream, int]
    # The thread that took the memory.
    thread: str
    used: dict[Stream, int] = field(default_factory=dict)
    recorded: set[Stream] = field(default_factory=set)


_memory: dict[int, _Memory] = {}


def wait(reason: str) -> None:
    """Let the host wait for the current stream."""
    fake_streams.host_waits(reason, fake_streams.current().clock())


def _arrive(reason: str, covers: fake_streams.Clock) -> None:
    """Let everything arrive that the host has waited for, and count the wait."""
    _counts.waits[reason] += 1
    frame = sys._getframe(1)
    while frame.f_back is not None and not frame.f_globals.get("__name__", "").startswith("toptune."):
        frame = frame.f_back
    if frame.f_back is not None:
        _counts.places[f"{frame.f_globals['__name__']}:{frame.f_lineno} {reason}"] += 1
    for copies in (_under_way, _leaving):
        ended = [copy for copy in copies if covers.get(copy[2], 0) >= copy[3]]
        copies[:] = [copy for copy in copies if covers.get(copy[2], 0) < copy[3]]
        for copy in ended:
            with torch.inference_mode(), _as_plain():
                if copies is _under_way:
                    copy[0].copy_(copy[1])
                elif not torch.equal(copy[0], copy[1]):
                    raise RuntimeError("page-locked memory was written to while a copy was reading it")


def _take(address: int, n_bytes: int) -> None:
    with _books:
        _sharing[address] += 1
        if _sharing[address] == 1:
            stream = fake_streams.current()
            thread = threading.current_thread().name
            _memory[address] = _Memory(stream, (stream, stream.launched), thread)
            _counts.live_bytes += n_bytes
            _counts.peak_bytes = max(_counts.peak_bytes, _counts.live_bytes)


def _give_back(address: int, n_bytes: int) -> None:
    with _books:
        _sharing[address] -= 1
        if _sharing[address]:
            return
        del _sharing[address]
        _counts.live_bytes -= n_bytes
        memory = _memory.pop(address, None)
    if memory is not None:
        safe = {memory.home, *memory.recorded}
        if any(stream not in safe and fake_streams.done.get(stream, 0) < number
               for stream, number in memory.used.items()):  # fmt: skip
            _counts.faults.append(f"{n_bytes} bytes were given back while another stream used them")


def _use(tensors: Sequence["CudaTensor"]) -> None:
    """Let the current stream launch an operation that uses tensors."""
    stream, number = fake_streams.launch()
    for tensor in tensors:
        if memory := _memory.get(_address(tensor.numbers)):
            if not stream.has_waited_for(*memory.written):
                shared = f"{tuple(tensor.shape)}, {_sharing[_address(tensor.numbers)]} wrappers"
                threads = f"{threading.current_thread().name}, taken by {memory.thread}"
                raise RuntimeError(
                    "a stream uses what another stream computes, and has not waited for it "
                    f"({shared}; thread {threads}; {len(fake_streams._inside)} streams entered; "
                    f"uses {stream}, home {memory.home}, written {memory.written})"
                )
            memory.used[stream] = number


def _note_written(tensor: "CudaTensor") -> None:
    if memory := _memory.get(_address(tensor.numbers)):
        stream = fake_streams.current()
        memory.written = stream, stream.launched


def _address(numbers: Tensor) -> int:
    with _as_plain():
        return numbers.untyped_storage().data_ptr()


def _note_leaving(source: Tensor) -> None:
    """Remember a copy from page-locked memory, which may begin much later."""
    with torch.inference_mode(), _as_plain():
        start, n_bytes = source.data_ptr(), source.numel() * source.element_size()
        for memory in _locked:
            place = start - memory.data_ptr()
            if 0 <= place < memory.numel() and source.is_contiguous():
                read = memory[place : place + n_bytes]
                _leaving.append((read, read.clone(), *_now()))


def _now() -> tuple[Stream, int]:
    stream = fake_streams.current()
    return stream, stream.launched


class CudaTensor(Tensor):
    """Numbers in main memory that say they lie on ``cuda:0``."""

    numbers: Tensor
    leave: Callable[[], Any]

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "CudaTensor":
        if numbers.dtype == torch.float64 and not _has_float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        make: Callable[..., Any] = Tensor._make_wrapper_subclass
        made = make(cls, numbers.size(), strides=numbers.stride(), dtype=numbers.dtype, device=CUDA)
        assert isinstance(made, CudaTensor)
        made.numbers = numbers
        made.enter()
        return made

    def enter(self) -> None:
        """Enter the memory into the books, until the tensor is gone or takes other memory."""
        storage = self.numbers.untyped_storage()
        _take(storage.data_ptr(), storage.nbytes())
        self.leave = weakref.finalize(self, _give_back, storage.data_ptr(), storage.nbytes())

    def record_stream(self, stream: Any) -> None:
        if memory := _memory.get(_address(self.numbers)):
            memory.recorded.add(stream)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise NotImplementedError(
            f"{func} reached torch's dispatcher, which the pretended device does not know"
        )


class _FakeCuda(TorchFunctionMode):
    """Sees the calls that have no tensor on the device yet: factories, and ``.to("cuda")``."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _call(func, args, kwargs or {})


_ABOUT = {getattr(Tensor, name).__get__ for name in ("device", "is_cuda", "is_leaf")}
_TO_PYTHON = {
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__bool__,
    Tensor.__index__,
    Tensor.__format__,
    Tensor.__contains__,
    Tensor.item,
    Tensor.tolist,
}
# The size of what these return depends on values, or they return a value to Python.
_WAITING = {
    "_unique2",
    "allclose",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique",
    "unique_consecutive",
}
# What the host knows without asking the device.
_KNOWN = {
    "__get__",
    "__len__",
    "dim",
    "element_size",
    "is_contiguous",
    "is_floating_point",
    "numel",
    "size",
    "stride",
}
# What gives its first argument other memory: ``tensor.data = other``, and `Tensor.set_`.
_TAKING_OTHER_MEMORY = {"__set__", "set_"}
# What may hold tensors: results with names, too.
_NESTED = (tuple, list, dict, deque)
# Functions that may be given tensors of several devices.
_ACROSS_DEVICES = {"_has_compatible_shallow_copy_type", "new_tensor", "set_", "type_as"}


def _call(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Do what `func` does, with the device's rules."""
    options = dict(kwargs)
    name = getattr(func, "__name__", str(func))
    if options.pop("pin_memory", False):
        _counts.pinned += 1
        with _as_plain():
            made = func(*args, **options)
            _locked.append(made.view(torch.uint8) if made.dim() else made)
            return made
    if func in _ABOUT:
        with _as_plain():
            return func(*args, **options)
    if func is Tensor.is_pinned:
        return False
    if name == "_has_compatible_shallow_copy_type":
        return not any(isinstance(value, CudaTensor) for value in args)
    if func is Tensor.to:
        return _to(*args, **options)
    if func is Tensor.cpu:
        return _moved(args[0], CPU)
    if func is Tensor.cuda:
        return _moved(args[0], CUDA, non_blocking=options.get("non_blocking", False))
    if func is Tensor.copy_:
        return _copy(*args, **options)
    if name == "__deepcopy__":
        # The memo holds all that was copied before. Looking through it for each tensor would take
        # longer than all else that a test does with a network.
        if not isinstance(args[0], CudaTensor):
            with _as_plain():
                return func(*args)
        args = (args[0], {})
    tensors = [*_tensors_in(args), *_tensors_in(options)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
    if on_device:
        _counts.operations[name] += name not in _KNOWN
        if name not in _KNOWN:
            _use(on_device)
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func in _TO_PYTHON:
            wait(name)
            with _as_plain():
                return func(*_mapped(_numbers_of, args), **options)
        if name in _WAITING:
            wait(name)
    with _as_plain():
        _check_devices(func, name, args, tensors)
    return _compute(func, name, args, options, on_device)


def _compute(
    func: Any, name: str, args: Sequence[Any], options: dict[str, Any], on_device: Sequence[CudaTensor]
) -> Any:
    """Compute with the numbers in main memory, and wrap what comes out where it would lie on the device."""
    is_wrapped = bool(on_device)
    if options.get("device") is not None:
        is_wrapped = _is_cuda(options["device"])
        options["device"] = CPU
    if is_wrapped and not on_device:
        _use([])
    wrappers = {id(tensor.numbers): tensor for tensor in on_device}
    with _as_plain():
        result = func(*_mapped(_numbers_of, args), **_mapped(_numbers_of, options))
        if on_device and name in _TAKING_OTHER_MEMORY:
            # In this order: the books of memory that stays the same go on.
            leave = on_device[0].leave
            on_device[0].enter()
            leave()

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor) or isinstance(value, CudaTensor) or not is_wrapped:
                return value
            # What changes its first argument in place, or fills `out`, returns the wrapper that it was given.
            known = wrappers.get(id(value))
            if known is None or known.shape != value.shape:
                return CudaTensor(value)
            _note_written(known)
            return known

        return _mapped(wrap, result)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an argument, as `tree_leaves`, which takes longer than a small operation."""
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (tuple, list, dict):
        for each in value.values() if type(value) is dict else value:
            yield from _tensors_in(each)
    elif isinstance(value, _NESTED):
        yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Change each leaf of an argument or a result, as `tree_map`."""
    kind = type(value)
    if kind in (tuple, list):
        return kind([_mapped(change, each) for each in value])
    if kind is dict:
        return {key: _mapped(change, each) for key, each in value.items()}
    return tree_map(change, value) if isinstance(value, _NESTED) else change(value)


def _check_devices(func: Any, name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Refuse what CUDA refuses: tensors with dimensions that lie on several devices."""
    if func in (Tensor.__getitem__, Tensor.__setitem__):
        _check_index(func, *args)
        return
    if name in _ACROSS_DEVICES or not any(isinstance(tensor, CudaTensor) for tensor in tensors):
        return
    if name in ("index_put_", "index_put"):  # its indices may lie in main memory
        tensors = [value for value in (args[0], *args[2:3]) if isinstance(value, Tensor)]
    if any(_is_array_on_cpu(tensor) for tensor in tensors):
        shapes = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name}: {shapes})"
        )
    is_in_place = name.endswith("_") and not name.startswith("__")
    if is_in_place and args and isinstance(args[0], Tensor) and not isinstance(args[0], CudaTensor):
        raise RuntimeError(f"{name} writes values on cuda:0 into a tensor on cpu")


def _check_index(func: Any, value: Tensor, index: Any, source: Any = None) -> None:
    """Refuse an index or new values on the wrong device; count the waits of what is let through."""
    parts = index if isinstance(index, tuple) else (index,)
    tensors = [part for part in parts if isinstance(part, Tensor)]
    is_advanced = any(tensor.dim() for tensor in tensors) or any(
        isinstance(part, list | np.ndarray) for part in parts
    )
    if not isinstance(value, CudaTensor):
        if any(isinstance(tensor, CudaTensor) and tensor.dim() for tensor in tensors):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
    else:
        if any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors):
            wait("index by mask")
        if any(isinstance(part, list | np.ndarray) or _is_array_on_cpu(part) for part in parts):
            wait("index from main memory")
    if func is Tensor.__setitem__ and isinstance(source, Tensor) and source.dim():
        if isinstance(source, CudaTensor) == isinstance(value, CudaTensor):
            return
        if is_advanced:
            raise RuntimeError("index_put_: self and values are on different devices")
        wait("assignment across devices")


def _to(
    value: Tensor,
    *given: Any,
    dtype: torch.dtype | None = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    """Read the arguments of `Tensor.to`, which come in several orders, and move the tensor."""
    flags = [non_blocking, copy]
    n_flags = 0
    for argument in given:
        if isinstance(argument, Tensor):
            device, dtype = CUDA if isinstance(argument, CudaTensor) else CPU, argument.dtype
        elif isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, bool):
            flags[n_flags] = argument
            n_flags += 1
        elif argument is not None:
            device = argument
    goes = isinstance(value, CudaTensor) if device is None else _is_cuda(device)
    return _moved(
        value,
        CUDA if goes else CPU,
        dtype=dtype,
        non_blocking=flags[0],
        copy=flags[1],
        memory_format=memory_format,
    )


def _moved(
    value: Tensor,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: torch.memory_format | None = None,
) -> Tensor:
    """Return the tensor on the device: itself if it lies there already and no copy is asked for."""
    was, goes = isinstance(value, CudaTensor), device.type == "cuda"
    inner = _numbers_of(value)
    _use([value] if isinstance(value, CudaTensor) else [])
    layout: dict[str, Any] = {} if memory_format is None else {"memory_format": memory_format}
    with _as_plain():
        made: Tensor = inner.to(dtype or inner.dtype, copy=copy or was != goes, **layout)
        if was == goes:
            return value if made is inner else CudaTensor(made) if goes else made
    if goes:
        if not non_blocking:
            wait("copy to the device")
        else:
            _note_leaving(inner)
        with _as_plain():
            return CudaTensor(made)
    if non_blocking:
        with _as_plain():
            return _start_copy(made, made.clone())
    wait("copy to main memory")
    return made


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Do what `Tensor.copy_` does."""
    _use([each for each in (target, source) if isinstance(each, CudaTensor)])
    if isinstance(target, CudaTensor):
        _note_written(target)
    if isinstance(target, CudaTensor) != isinstance(source, CudaTensor):
        if isinstance(source, CudaTensor) and non_blocking:
            with _as_plain():
                return _start_copy(target, source.numbers.to(target.dtype, copy=True))
        if isinstance(source, CudaTensor):
            wait("copy to main memory")
        elif not non_blocking:
            wait("copy to the device")
        else:
            _note_leaving(source)
    with _as_plain():
        _numbers_of(target).copy_(_numbers_of(source))
    return target


def _start_copy(target: Tensor, values: Tensor) -> Tensor:
    """Put nonsense where the values will be once the host has waited for the device."""
    with torch.no_grad(), _as_plain():
        _under_way.append((target, values, *_now()))
        target.fill_(
            float("nan") if target.is_floating_point() else 1 if target.dtype == torch.bool else 0x7F
        )
    return target


def _numbers_of(value: Any) -> Any:
    return value.numbers if isinstance(value, CudaTensor) else value


def _is_array_on_cpu(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, CudaTensor) and value.dim() > 0


def _is_cuda(device: Any) -> bool:
    return isinstance(device, int) or torch.device(device).type == "cuda"


def _decode_jpeg(data: list[Tensor], mode: Any, device: torch.device) -> list[Tensor]:
    """Do as torchvision's decoder on CUDA: all images, or an error that names none of them."""
    if any(isinstance(each, CudaTensor) for each in data):
        raise ValueError("Input list must contain tensors on CPU.")
    with _as_plain():
        try:
            decoded = [torch.ops.image.decode_jpeg(each, mode.value, False) for each in data]
        except RuntimeError as error:
            raise RuntimeError("Error while decoding JPEG images: Failed to decode batch: 3") from error
        _counts.operations["decode_jpeg"] += 1
        return [CudaTensor(each) for each in decoded]


@contextmanager
def fake_cuda(*, has_float64: bool = True) -> Iterator[Counts]:
    """Pretend inside that this machine has one CUDA device; gives what is counted from here on.

    Without `has_float64`, the device refuses values of that type, as MPS does.

    Other threads may use tensors that lie on the device, but cannot put any there: torch keeps the rule that
    sees such calls by thread.
    """
    global _has_float64
    _counts.clear()
    for old in (_under_way, _leaving, _locked, _memory, _counts.faults):
        old.clear()
    fake_streams.begin(_arrive)
    _has_float64 = has_float64
    pretended: dict[str, Any] = {
        "Event": fake_streams.Event,
        "Stream": Stream,
        "current_stream": fake_streams.current,
        "device": lambda _: nullcontext(),
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "a pretended device",
        "get_rng_state": lambda *_: torch.zeros(1),
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_initialized": lambda: False,
        "manual_seed_all": lambda *_: None,
        "max_memory_allocated": lambda *_: _counts.peak_bytes,
        "memory_allocated": lambda *_: _counts.live_bytes,
        "memory_reserved": lambda *_: _counts.live_bytes,
        "mem_get_info": lambda *_: (FREE_BYTES, TOTAL_BYTES),
        "reset_peak_memory_stats": lambda *_: setattr(_counts, "peak_bytes", _counts.live_bytes),
        "set_device": lambda *_: None,
        "set_rng_state": lambda *_: None,
        "stream": fake_streams.use,
        "synchronize": lambda *_: fake_streams.host_waits("synchronize", fake_streams.everything()),
    }
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(torch.cuda, **pretended))
        stack.enter_context(patch("torchvision.io.decode_jpeg", _decode_jpeg))
        # Threads that read ahead pin memory, where the rules of this thread do not hold.
        stack.enter_context(patch.object(Tensor, "pin_memory", lambda tensor, *_: tensor.clone()))
        for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(
                torch.optim.Optimizer, check
            ):  # one of the two, by torch's version; it asks the driver
                stack.enter_context(patch.object(torch.optim.Optimizer, check, lambda _: None))
        stack.enter_context(_FakeCuda())
        try:
            yield _counts
            assert not _counts.faults, _counts.faults
        finally:
            _has_float64 = True
