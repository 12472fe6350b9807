"""`examine_machine` lists what this machine offers: versions, devices, arithmetic and caches."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch
from huggingface_hub import constants as hub

from toptune.machine.cores import usable_cores
from toptune.machine.devices import choose_device, has_fast_bf16, resolve_precision
from toptune.machine.memory import memory_limit_bytes

PACKAGES = ("toptune", "torch", "torchvision", "timm", "zarr", "scikit-learn", "skops", "pyarrow", "pillow")
# The packages that each extra installs. One of them is not the extra: tifffile alone reads no LZW.
EXTRAS = {
    "co2": ("codecarbon",),
    "dask": ("dask", "distributed"),
    "dicom": ("pydicom",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "faiss": ("faiss-cpu",),
    "gpu": ("nvidia-ml-py",),
    "heif": ("pillow-heif",),
    "jobqueue": ("dask", "dask-jobqueue", "distributed"),
    "open-clip": ("open-clip-torch",),
    "s3": ("obstore",),
    "tiff": ("imagecodecs", "tifffile"),
    "transformers": ("transformers",),
    "umap": ("umap-learn",),
}
_NOT_INSTALLED = "not installed"


def examine_machine() -> dict[str, str]:
    """Collect versions, devices, arithmetic and caches as short texts.

    Returns
    -------
    dict of str to str
        Name of a fact to its text; nothing is changed and nothing is downloaded.
    """
    facts = {"python": sys.version.split()[0], "platform": platform.platform()}
    facts |= {name: installed_version(name) for name in PACKAGES}
    # A job or a container may have fewer cores than the machine; the cores that this process may use count.
    facts["cpu cores"] = str(usable_cores())
    facts |= {f"extra {extra}": extra_of(extra) for extra in EXTRAS}
    facts["memory limit"] = f"{memory_limit_bytes() / 2**30:.1f} GiB for training, by default"
    facts["cpu arithmetic"] = torch.backends.cpu.get_cpu_capability()
    facts["precision auto"] = f"{'bf16' if has_fast_bf16() else 'fp32'} on the CPU"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", index)
        facts["precision auto"] += f", {resolve_precision('auto', device)} on {device}"
    facts["torch threads"] = str(torch.get_num_threads())
    facts["device auto"] = ": ".join(choose_device())
    facts["cuda"] = cuda_devices()
    facts["hub cache"] = str(hub.HF_HUB_CACHE)
    facts["hub offline"] = "yes (HF_HUB_OFFLINE=1)" if hub.HF_HUB_OFFLINE else "no"
    return facts


def installed_version(package: str) -> str:
    """Return the version of a package, or ``not installed``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return _NOT_INSTALLED


def extra_of(extra: str) -> str:
    """Return the packages of an extra with their versions and, where one is absent, how to get it."""
    found = [f"{name} {installed_version(name)}" for name in EXTRAS[extra]]
    is_whole = not any(each.endswith(_NOT_INSTALLED) for each in found)
    return ", ".join(found) + ("" if is_whole else f"; pip install 'toptune[{extra}]'")


def cuda_devices() -> str:
    """List names and memory of the GPUs, or say why there is none."""
    if not torch.cuda.is_available():
        built = torch.version.cuda or "without CUDA"
        return f"none usable (torch built for {built})"
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{each.name} ({each.total_memory / 2**30:.0f} GiB)" for each in properties)
