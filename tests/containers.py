"""Small images put into every kind of container that toptune reads."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from tiny import draw, encode

CLASSES = ("ant", "bee")
N_IMAGES = 8
SIDE = 32
# All containers are given this time, so that a test can tell where modification times come from.
MODIFIED_NS = 1_700_000_000_000_000_000


def image(number: int) -> Image.Image:
    """The image of a row: 32 x 32, color."""
    return draw(number, (SIDE, SIDE))


def pixels(n: int = N_IMAGES, first: int = 0) -> NDArray[np.uint8]:
    """Images as an array ``(n, 32, 32, 3)``."""
    return np.stack([np.asarray(image(first + number)) for number in range(n)])


def png(number: int) -> bytes:
    return encode(image(number))


def label(number: int) -> str:
    return CLASSES[number % 2]


def split(number: int) -> str:
    """The first six are to train on."""
    return "train" if number < 6 else "test"


def touched(path: Path) -> Path:
    """Set the time of a container, and of all files in it."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(file, ns=(MODIFIED_NS, MODIFIED_NS))
    return path


def make_folder(root: Path) -> Path:
    for number in range(N_IMAGES):
        file = root / "folder" / split(number) / label(number) / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    return touched(root / "folder")


def make_csv(root: Path) -> Path:
    make_folder(root)
    lines = [f"folder/{split(i)}/{label(i)}/{i:03}.png,{label(i)},{split(i)}" for i in range(N_IMAGES)]
    (root / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    return root / "list.csv"


def write_tar(file: Path, members: dict[str, bytes], *, form: int = tarfile.USTAR_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def make_tars(root: Path) -> Path:
    for name, rows in (("train-000", range(3)), ("train-001", range(3, 6)), ("test-000", range(6, 8))):
        members: dict[str, bytes] = {}
        for row in rows:
            members |= {f"{row:03}.png": png(row), f"{row:03}.cls": label(row).encode()}
        write_tar(root / "shards" / f"{name}.tar", members)
    return touched(root / "shards")


def make_zip(root: Path) -> Path:
    folder = make_folder(root)
    with zipfile.ZipFile(root / "packed.zip", "w") as archive:
        for number, file in enumerate(sorted(folder.rglob("*.png"))):
            method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            archive.write(file, file.relative_to(root), compress_type=method)
    return touched(root / "packed.zip")


FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}


def table(rows: range, features: dict[str, object] | None = None) -> pa.Table:
    """A table as the `datasets` library lays it out."""
    content = {
        "image": pa.array(
            [{"bytes": png(row), "path": f"{row}.png"} for row in rows],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "label": pa.array([row % 2 for row in rows], pa.int64()),
    }
    noted = json.dumps({"info": {"features": features or FEATURES}})
    return pa.table(content).replace_schema_metadata({"huggingface": noted})


def write_saved(folder: Path, content: pa.Table, *, n_files: int = 1, split: str | None = None) -> Path:
    """A folder as ``Dataset.save_to_disk`` writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{n_files:05}.arrow" for number in range(n_files)]
    cuts = np.linspace(0, content.num_rows, n_files + 1).astype(int)
    for name, first, last in zip(names, cuts[:-1], cuts[1:], strict=True):
        part = content.slice(first, last - first).combine_chunks()
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part, max_chunksize=2)
    features = json.loads(content.schema.metadata[b"huggingface"])["info"]["features"]
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def make_saved(root: Path) -> Path:
    write_saved(root / "saved" / "train", table(range(6)), n_files=2, split="train")
    write_saved(root / "saved" / "test", table(range(6, 8)), split="test")
    (root / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    return touched(root / "saved")


def make_parquet(root: Path) -> Path:
    folder = root / "hub" / "data"
    folder.mkdir(parents=True)
    pq.write_table(table(range(6)), folder / "train-00000-of-00001.parquet", row_group_size=2)
    pq.write_table(table(range(6, 8)), folder / "test-00000-of-00001.parquet")
    return touched(root / "hub")


def make_npz(root: Path, save: Callable[..., None] = np.savez) -> Path:
    names = np.array([label(number) for number in range(N_IMAGES)])
    whole = pixels()
    save(root / "arrays.npz", x_train=whole[:6], y_train=names[:6], x_test=whole[6:], y_test=names[6:])
    return touched(root / "arrays.npz")


def make_compressed_npz(root: Path) -> Path:
    return make_npz(root, np.savez_compressed)


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def make_idx(root: Path) -> Path:
    """As torchvision leaves MNIST: the files and what they were unpacked from. Gray."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    gray = pixels().mean(axis=-1).astype(np.uint8)
    numbers = np.arange(N_IMAGES, dtype=np.uint8) % 2
    for name, rows in (("train", slice(0, 6)), ("t10k", slice(6, 8))):
        images = idx_bytes(gray[rows])
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(numbers[rows])))
    (folder / "train-images-idx3-ubyte").write_bytes(idx_bytes(gray[:6]))
    return touched(root / "MNIST")


def planes(rows: slice) -> NDArray[np.uint8]:
    """CIFAR's rows: all of red, then green, then blue."""
    return np.ascontiguousarray(np.moveaxis(pixels()[rows], -1, 1)).reshape(-1, 3072)


_PICKLER = """
import pickle, sys
import numpy as np
folder, protocol = sys.argv[1], int(sys.argv[2])
rows = np.load(folder + "/rows.npy")
for name, first, last in (("data_batch_1", 0, 3), ("data_batch_2", 3, 6), ("test_batch", 6, 8)):
    batch = {b"batch_label": b"a batch", b"labels": [row % 2 for row in range(first, last)],
             b"data": rows[first:last], b"filenames": [b"%d.png" % row for row in range(first, last)]}
    with open(f"{folder}/{name}", "wb") as file:
        pickle.dump(batch, file, protocol)
with open(folder + "/batches.meta", "wb") as file:
    pickle.dump({b"label_names": [b"ant", b"bee"], b"num_vis": 3072}, file, protocol)
"""


def make_cifar(root: Path, protocol: int = 2) -> Path:
    """CIFAR-10's Python batches, pickled by another process."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    np.save(folder / "rows.npy", planes(slice(None)))
    subprocess.run([sys.executable, "-c", _PICKLER, str(folder), str(protocol)], check=True)
    (folder / "rows.npy").unlink()
    return touched(folder)


def make_cifar_binary(root: Path) -> Path:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    numbers = (np.arange(N_IMAGES, dtype=np.uint8) % 2)[:, None]
    records = np.hstack([numbers, planes(slice(None))])
    for name, rows in (("data_batch_1", slice(0, 6)), ("test_batch", slice(6, 8))):
        (folder / f"{name}.bin").write_bytes(records[rows].tobytes())
    (folder / "batches.meta.txt").write_text("ant\nbee\n\n")
    return touched(folder)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "folder": make_folder,
    "csv": make_csv,
    "tars": make_tars,
    "zip": make_zip,
    "saved": make_saved,
    "parquet": make_parquet,
    "npz": make_npz,
    "npz compressed": make_compressed_npz,
    "idx": make_idx,
    "cifar": make_cifar,
    "cifar binary": make_cifar_binary,
}
