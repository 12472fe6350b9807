"""Names of the kernels, which are checked without torch."""

from toptune.errors import InputError

KERNELS = ("gaussian", "laplacian", "matern12", "matern32", "matern52", "linear")


def check_kernel(name: str) -> None:
    """Refuse a name that is none of `KERNELS`."""
    if name not in KERNELS:
        raise InputError(f"kernel {name!r} is unknown; choose one of {', '.join(KERNELS)}")
