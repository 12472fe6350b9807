"""What float32 products are: float32, whatever the process has chosen for its networks."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from taking float32 products in TF32 (CUDA) or bfloat16 (CPU) while a solver works.

    Kernel values with 10 bits lose more than any penalty mends; sums and systems are float64 as they are.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
