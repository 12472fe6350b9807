"""What tests of several folders share: images, the optional real data, the command line."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# torch.compile imports distutils. Only setuptools that came first stands in for distutils without a warning.
import setuptools  # noqa: F401
from shapes import save_shapes

if TYPE_CHECKING:
    from fake_cuda import Counts

# As the command line does, and before any test loads torch: see `toptune.cli.main`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Files run beside each other; more threads than cores would only wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Files that take long: they are begun first, so that none of them is left over for one worker at the end.
LONG = (
    "test_readme.py",
    "test_object_store.py",
    "test_exporting.py",
    "test_finetune.py",
    "test_check_estimator.py",
    "test_slurm.py",
    "test_slurm_jobs.py",
    "test_packages.py",
    "test_dask_units.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on",
        choices=("cpu", "cuda", "fake-cuda"),
        default="cpu",
        help="device to compute on where a test names none: see tests/other_device.py",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--on") != "cpu":
        from other_device import use_device

        use_device()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if item.config.getoption("--on") != "fake-cuda":
        return (yield)
    from fake_cuda import fake_cuda

    with fake_cuda():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


# What draws an image of each run, by the modules that call it.
DRAWING = {
    "toptune.train.figures.metrics": ("save_confusion_image",),
    "toptune.workflows.finetuning.run": ("save_confusion_image",),
    "toptune.train.figures.label_figures": ("save_precision_recall",),
    "toptune.train.figures.number_figures": ("save_predicted", "save_residuals"),
}
_drawn: dict[tuple[object, ...], bytes] = {}


def pytest_runtest_setup() -> None:
    """Draw images of runs of the same classes once: drawing takes longer than a small training.

    Tests of the drawing itself call it themselves.
    """
    drafting: Any = sys.modules.get("toptune.extract.drafting")
    if drafting is not None and not hasattr(drafting.draw_images, "cache_info"):
        # The sample images of each size are drawn once too; nothing writes into them.
        drafting.draw_images = functools.cache(drafting.draw_images)
    for module, names in DRAWING.items():
        if module in sys.modules:
            for name in names:
                draw = getattr(sys.modules[module], name)
                if not hasattr(draw, "draws_once"):
                    setattr(sys.modules[module], name, _drawing_once(draw))


def _drawing_once(draw: Callable[..., None]) -> Callable[..., None]:
    """Draw as `draw` does, but only the first image of the same names."""
    from toptune.store.files.writing import write_file

    def draw_once(path: Path, *given: Any, **options: Any) -> None:
        # Only the names are hashable as they are; the numbers and the title differ from run to run.
        names = [tuple(each) for each in given if isinstance(each, list | tuple)]
        key = (draw.__module__, draw.__name__, *names)
        if key in _drawn:
            write_file(path, _drawn[key])
            return
        draw(path, *given, **options)
        if path.is_file():
            _drawn[key] = path.read_bytes()

    draw_once.draws_once = True  # type: ignore[attr-defined]
    return draw_once


@pytest.fixture(scope="session", autouse=True)
def _without_fsync() -> Iterator[None]:
    """What it gives shows only when the power fails, and the many small files would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def cuda() -> Iterator["Counts"]:
    """A pretended CUDA device, and what it was asked to do."""
    from fake_cuda import fake_cuda

    with fake_cuda() as counts:
        yield counts


@pytest.fixture(params=["pretended", "real"])
def gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device name ``cuda``, for tests that run on a GPU where there is one, and on the pretended one."""
    if request.param == "pretended":
        from fake_cuda import fake_cuda

        with fake_cuda():
            yield "cuda"
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    yield "cuda"


@pytest.fixture(scope="module")
def warm_workers() -> Iterator[None]:
    """Dask workers on this machine are forked from a process that has loaded torch and timm."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    from warm_processes import warm_workers

    with warm_workers():
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty-six images of three shapes."""
    return save_shapes(tmp_path / "photos")


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real weights and images, which a machine may lack."""
    folder = Path(__file__).parents[2] / "shared" / "assets"
    if not folder.is_dir():
        pytest.skip("no real weights and images in ../shared/assets")
    return folder


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; give exit code, standard output, standard error."""
    from toptune.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = stop.value.code
        assert isinstance(code, int)
        return code, out, err

    return run
