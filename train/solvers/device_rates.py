"""How much cheaper float32 is than float64 on a CUDA device, measured: cards differ by a factor of 32."""

import time

import torch

# Rows of the square matrices that are multiplied: large enough to fill every card.
SIZE = 2048
# Times of each product, of which the shortest counts; one more before them starts the library.
_REPEATS = 3
# What a float32 product costs as a share of one in float64 on a CPU, and where there is no room to measure.
DEFAULT_SHARE = 0.5
# What was measured in this process, by the name of the card.
_measured: dict[str, float] = {}


def float32_share(device: torch.device, *, limit_bytes: int) -> float:
    """Return the cost of a float32 product as a share of one in float64, measured once a card and process.

    It is about 1/2 on cards for data centers, 1/32 or 1/64 on others. Where cuBLAS is told to emulate float64
    by integer products (``CUBLAS_EMULATE_DOUBLE_PRECISION=1``), the share is of the emulated product.

    Parameters
    ----------
    device : torch.device
    limit_bytes : int
        Memory that may be taken there; below 96 MiB nothing is measured.

    Examples
    --------
    >>> float32_share(torch.device("cpu"), limit_bytes=2**30)
    0.5
    """
    if device.type != "cuda" or limit_bytes < 3 * 8 * SIZE**2:
        return DEFAULT_SHARE
    name = torch.cuda.get_device_name(device)
    if name not in _measured:
        double, single = (_product_seconds(device, dtype) for dtype in (torch.float64, torch.float32))
        # A float32 product that is no faster is no reason to prefer float64.
        _measured[name] = min(1.0, single / double)
    return _measured[name]


def _product_seconds(device: torch.device, dtype: torch.dtype) -> float:
    left = torch.ones((SIZE, SIZE), dtype=dtype, device=device)
    result = torch.empty_like(left)
    seconds = []
    for _ in range(_REPEATS + 1):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        torch.mm(left, left, out=result)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
