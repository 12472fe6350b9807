"""What `import toptune.store` offers, and what it does not load."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import toptune.store
from toptune import errors

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)
]


def test_all_is_what_is_public() -> None:
    public = {
        name
        for name, value in vars(toptune.store).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert set(toptune.store.__all__) == public
    assert len(toptune.store.__all__) == len(public)


def test_import_loads_neither_torch_nor_zarr() -> None:
    code = (
        "import sys, toptune.store; print(sorted({'torch', 'zarr', 'sklearn', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_public_picklable_and_also_builtin(error: type[errors.ToptuneError]) -> None:
    assert error.__name__ in toptune.store.__all__
    again = pickle.loads(pickle.dumps(error("what, value, limit, next step")))
    assert str(again) == "what, value, limit, next step"
    assert type(again) is error
    if error not in (errors.ToptuneError, errors.InterruptedRunError):
        assert issubclass(error, ValueError | OSError | ArithmeticError)
    assert error.exit_code in (1, 2, 3)


def test_the_path_of_an_error_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(errors.CorruptError("/store/file is damaged", Path("/store/file"))))
    assert (again.path, str(again)) == (Path("/store/file"), "/store/file is damaged")
    assert errors.CorruptError("no file is at fault").path is None
