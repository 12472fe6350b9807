"""Float32 is computed in float32, whatever the process has chosen for networks of its own.

torch keeps these choices for the whole process, and several threads compute at once: the first thread that
enters makes the switch, and the last that leaves switches back.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Kinds of devices for which a thread may have switched autocast on.
_AUTOCAST = ("cpu", "cuda", "mps")


class _Held:
    """Settings of the process that hold while any thread is inside."""

    def __init__(self, change: Callable[[], contextlib.ExitStack]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._n_inside = 0
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._n_inside:
                self._undo = self._change()
            self._n_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_inside -= 1
                if not self._n_inside:
                    self._undo.close()


def _set(undo: contextlib.ExitStack, owner: Any, name: str, value: object) -> None:
    """Change a setting that differs from `value`, and have `undo` put the old value back."""
    before = getattr(owner, name)
    if before != value:
        undo.callback(setattr, owner, name, before)
        setattr(owner, name, value)


def _take_full_precision() -> contextlib.ExitStack:
    backends: Any = torch.backends
    with contextlib.ExitStack() as undo:
        # From torch 2.9 on each operation has a switch, which follows the library's and the general one until
        # it is set. In this order, a switch that still says otherwise was set by itself, and is put back so;
        # one that followed others is not touched, and follows them again.
        if hasattr(backends, "fp32_precision"):
            for owner in (backends.cuda.matmul, backends.mkldnn.matmul):
                undo.callback(_put_back, owner, owner.fp32_precision)
            for owner in (
                backends, backends.cudnn, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
                backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn,
            ):  # fmt: skip
                _set(undo, owner, "fp32_precision", "ieee")
        else:
            _set(undo, backends.cudnn, "allow_tf32", False)
        # The older switch for products can be read now: torch refuses while it contradicts those above.
        before = torch.get_float32_matmul_precision()
        if before != "highest":
            undo.callback(torch.set_float32_matmul_precision, before)
            torch.set_float32_matmul_precision("highest")
        return undo.pop_all()


def _put_back(owner: Any, before: str) -> None:
    """Mend a switch that the older one, put back, has set too."""
    if owner.fp32_precision != before:
        owner.fp32_precision = "none"
    if owner.fp32_precision != before:
        owner.fp32_precision = before


def _take_fixed_algorithms() -> contextlib.ExitStack:
    with contextlib.ExitStack() as undo:
        for name, value in (("enabled", True), ("benchmark", False), ("deterministic", True)):
            _set(undo, torch.backends.cudnn, name, value)
        # cuBLAS may add up parts of products of 16 bits in 16 bits, as the process allows by default.
        matmul: Any = torch.backends.cuda.matmul
        for name in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
            _set(undo, matmul, name, False)
        if hasattr(matmul, "allow_fp16_accumulation"):  # torch >= 2.7
            _set(undo, matmul, "allow_fp16_accumulation", False)
        return undo.pop_all()


_full_precision = _Held(_take_full_precision)
_fixed_algorithms = _Held(_take_fixed_algorithms)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from computing float32 products and convolutions in TF32 or bfloat16 inside the block.

    By default cuDNN computes convolutions in TF32. A process may choose TF32 (CUDA) or bfloat16 (CPU) for
    products too, by ``torch.set_float32_matmul_precision`` or ``torch.backends``, and a thread by
    ``torch.autocast``. TF32 keeps 10 bits of the mantissa: kernel values lose more by it than any penalty
    mends, and features differ by 3e-4 instead of 1e-5. Tensors of other types compute as ever.

    Examples
    --------
    >>> torch.set_float32_matmul_precision("medium")
    >>> with full_precision():
    ...     torch.get_float32_matmul_precision()
    'highest'
    >>> torch.get_float32_matmul_precision()
    'medium'
    >>> torch.set_float32_matmul_precision("highest")
    """
    with _full_precision(), contextlib.ExitStack() as stack:
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def fixed_algorithms() -> Iterator[None]:
    """Let CUDA compute the same every time, whatever the process has chosen, inside the block.

    cuDNN takes the same algorithm for the same convolution, and cuBLAS adds up products of 16 bits in
    float32.
    """
    with _fixed_algorithms():
        yield
