"""What `import toptune.store` offers, and what it does not load."""

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from toptune import errors

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
]


HEAVY = {"torch", "zarr", "h5py", "pyarrow", "numpy", "sklearn", "click"}
NAMES = importlib.import_module("toptune.store").__all__


def loaded_by(code: str) -> set[str]:
    """Return the heavy libraries that a process has loaded after running some code."""
    code = f"import sys\n{code}\nprint(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_loads_no_library() -> None:
    assert loaded_by("import toptune.store") == set()
    assert loaded_by("from toptune.store import CorruptError, Recipe") <= {"numpy"}


def test_opening_loads_neither_torch_nor_zarr() -> None:
    assert not loaded_by("from toptune.store import FeatureStore") & {"torch", "zarr", "h5py", "sklearn"}


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_public_picklable_and_also_builtin(error: type[errors.ToptuneError]) -> None:
    assert error.__name__ in NAMES
    again = pickle.loads(pickle.dumps(error("what, value, limit, next step")))
    assert str(again) == "what, value, limit, next step"
    assert type(again) is error
    made: object = error.__new__(error)  # type: ignore[call-overload]  # as a dask client does
    assert type(made) is error
    if error not in (errors.ToptuneError, errors.InterruptedRunError):
        assert issubclass(error, ValueError | OSError | ArithmeticError | MemoryError)
    assert error.exit_code in (1, 2, 3)


def test_the_path_of_an_error_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(errors.CorruptError("/store/file is damaged", Path("/store/file"))))
    assert (again.path, str(again)) == (Path("/store/file"), "/store/file is damaged")
    assert errors.CorruptError("no file is at fault").path is None
