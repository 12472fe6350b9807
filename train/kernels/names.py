"""Names of the kernels, which are checked without torch."""

from toptune.options import check_choice

GAUSSIAN = "gaussian"
KERNELS = (GAUSSIAN, "laplacian", "matern12", "matern32", "matern52", "linear")


def check_kernel(name: str) -> None:
    """Refuse a name that is none of `KERNELS`."""
    check_choice(name, KERNELS, option="kernel")
