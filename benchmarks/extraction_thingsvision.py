"""The part of thingsvision in `extraction.py`, which runs this script with an interpreter of its own.

Usage::

    PYTHON benchmarks/extraction_thingsvision.py THREADS

Every line of standard input holds the arguments of `extract` as JSON. Every line of standard output says that
the features of one line of input are saved.
"""

import json
import sys
from collections import defaultdict
from contextlib import redirect_stdout

import timm
import torch
from thingsvision import get_extractor_from_model
from thingsvision.utils.data import DataLoader, ImageDataset
from thingsvision.utils.storing import save_features


def extract(*, model: str, images: str, out: str, blocks: bool, batch: int, workers: int) -> None:
    """Save features of the last layer, and of all blocks if asked, as ``out/<module>/features.npy``.

    The code follows thingsvision's documentation, with its data set and its loader, which decodes between
    batches; with workers, torch's loader reads the same data set. All blocks come from one pass and are
    averaged batch by batch: kept whole, those of a ResNet-50 take 9 MB per image.
    """
    network = timm.create_model(model, pretrained=True, num_classes=0)
    config = timm.data.resolve_data_config({}, model=network)
    extractor = get_extractor_from_model(model=network, device="cpu", backend="pt")
    dataset = ImageDataset(
        root=images,
        out_path=f"{out}/files",
        backend="pt",
        transforms=timm.data.create_transform(**config, is_training=False),
    )
    if workers:
        batches = torch.utils.data.DataLoader(dataset, batch_size=batch, num_workers=workers)
    else:
        batches = DataLoader(dataset=dataset, batch_size=batch, backend="pt")
    # Without classes the classifier is the identity, so that its output is the last layer.
    last = network.pretrained_cfg["classifier"]
    if not blocks:
        features = extractor.extract_features(batches=batches, module_name=last)
        save_features(features, out_path=f"{out}/last", file_format="npy")
        return
    names = [info["module"] for info in network.feature_info]
    kept = defaultdict(list)
    with extractor.batch_extraction(module_names=[*names, last], output_type="tensor") as taps:
        for images in batches:
            found = taps.extract_batch(images, flatten_acts=False)
            kept["last"].append(found[last])
            for name in names:
                kept[name].append(found[name].mean(dim=1 if found[name].ndim == 3 else (2, 3)))
    for name, parts in kept.items():
        save_features(torch.cat(parts).numpy(), out_path=f"{out}/{name}", file_format="npy")


def main() -> None:
    """Answer the requests on standard input until it ends."""
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):  # it prints what it does
            extract(**json.loads(line))
        print("done", flush=True)


if __name__ == "__main__":
    main()
