"""Float32 products are computed in float32, whatever the process has chosen for its networks."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keep torch from taking float32 products in TF32 (CUDA) or bfloat16 (CPU) while a solver works.

    TF32 keeps 10 bits of the mantissa: kernel values lose more by it than any penalty mends. Sums and systems
    are float64 in any case.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
