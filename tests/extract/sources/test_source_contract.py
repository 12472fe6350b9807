"""What every source keeps to, and that the container of an image does not change its features."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from containers import MAKERS, MODIFIED_NS, N_IMAGES, label, pixels, split
from PIL import Image

from toptune.extract import ImageSource, decode_image, open_source
from toptune.store import FeatureCache, InputError

FLIPS = 40


@dataclass(frozen=True)
class Opened:
    kind: str
    path: Path
    source: ImageSource

    @property
    def order(self) -> list[int]:
        """Number of the image in each row, told by its pixels."""
        wanted = self.expected()
        found = [np.asarray(decode_image(self.source.read(row))).astype(int) for row in range(N_IMAGES)]
        return [int(np.argmin([np.abs(each - one).max() for one in wanted])) for each in found]

    def expected(self) -> list[np.ndarray[tuple[int, ...], np.dtype[np.int_]]]:
        color = pixels()
        if self.kind == "idx":
            color = np.repeat(color.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
        return list(color.astype(int))


@pytest.fixture(params=MAKERS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    path = MAKERS[request.param](tmp_path)
    return Opened(request.param, path, open_source(path))


def test_every_image_is_there_once_with_its_label_and_split(opened: Opened) -> None:
    manifest = opened.source.manifest()
    order = opened.order
    assert isinstance(opened.source, ImageSource)
    assert opened.source.name
    assert manifest.n_rows == len(set(manifest.ids)) == N_IMAGES
    assert sorted(order) == list(range(N_IMAGES))
    names = {"ant": "0", "bee": "1"} if opened.kind == "idx" else {"ant": "ant", "bee": "bee"}
    assert manifest.labels == [names[label(number)] for number in order]
    assert manifest.splits == [split(number) for number in order]


def test_pixels_are_exact(opened: Opened) -> None:
    for row, number in enumerate(opened.order):
        found = np.asarray(decode_image(opened.source.read(row)))
        assert np.array_equal(found, opened.expected()[number])


def test_opening_again_gives_the_same(opened: Opened) -> None:
    again = open_source(opened.path)
    assert again.name == opened.source.name
    assert again.manifest().to_parquet() == opened.source.manifest().to_parquet()
    assert [again.read(row) for row in range(N_IMAGES)] == [
        opened.source.read(row) for row in range(N_IMAGES)
    ]


def test_sizes_and_times_are_those_of_what_is_read(opened: Opened) -> None:
    manifest = opened.source.manifest()
    lengths = [len(opened.source.read(row)) for row in range(N_IMAGES)]
    # A Parquet file does not say how long its images are.
    assert manifest.sizes.tolist() == ([0] * N_IMAGES if opened.kind == "parquet" else lengths)
    assert set(manifest.modified_ns.tolist()) == {MODIFIED_NS}


def test_threads_may_read_at_once_in_any_order(opened: Opened) -> None:
    alone = [opened.source.read(row) for row in range(N_IMAGES)]
    rows = [row for row in range(N_IMAGES) for _ in range(20)]
    random.Random(0).shuffle(rows)
    fresh = open_source(opened.path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fresh.read, rows)) == [alone[row] for row in rows]


def test_a_split_is_a_source_too(opened: Opened) -> None:
    test = open_source(opened.path, split="test")
    assert test.manifest().splits == ["test", "test"]
    whole = opened.source.manifest()
    rows = [whole.ids.index(name) for name in test.manifest().ids]
    assert [test.read(row) for row in range(2)] == [opened.source.read(row) for row in rows]


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("folder", "csv")])
def test_damage_anywhere_is_an_input_error_or_not_noticed(tmp_path: Path, kind: str) -> None:
    """Flip a byte, or cut the file there: nothing but our own errors, and some of them."""
    path = MAKERS[kind](tmp_path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    rng = random.Random(0)
    refused = 0
    for trial in range(FLIPS):
        file = rng.choice(files)
        whole = file.read_bytes()
        place = rng.randrange(len(whole)) if trial % 2 else rng.randrange(min(600, len(whole)))
        torn = bytearray(whole)
        torn[place] ^= 1 << rng.randrange(8)
        file.write_bytes(whole[:place] if trial % 5 == 0 else torn)
        try:
            source = open_source(path)
            for row in range(source.manifest().n_rows):
                source.read(row)
        except InputError:
            refused += 1
        file.write_bytes(whole)
    assert refused


def test_features_do_not_depend_on_the_container(
    opened: Opened, stored: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    cache = stored(opened.path, store=tmp_path / "a")
    plain = tmp_path / "plain"
    plain.mkdir()
    for row in range(N_IMAGES):
        Image.fromarray(np.asarray(decode_image(opened.source.read(row)))).save(plain / f"{row}.png")
    reference = stored(plain, store=tmp_path / "b")
    rows = np.arange(N_IMAGES)
    found, wanted = (each.blocks(["last.none"]).take(rows) for each in (cache, reference))
    assert np.abs(wanted).max() > 0
    assert np.array_equal(found, wanted)
