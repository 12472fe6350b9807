"""`measure_rate` measures the images per second of an extraction here, on a sample of the images."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from toptune.extract.extraction import extract_models
from toptune.extract.images.source import ImageData, ImageSource
from toptune.extract.sources.opening import open_source
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.samples import even_sample

SAMPLE_IMAGES = 128


def measure_rate(
    data: ImageData,
    *,
    models: Sequence[str],
    options: Mapping[str, Any],
    n_pictures: int = SAMPLE_IMAGES,
) -> float:
    """Extract a sample into a store that is thrown away, and return the images per second.

    Parameters
    ----------
    data : path or ImageSource
        All images.
    models : sequence of str
        Names of backbones. Of several, the images that all of them are done with in a second.
    options : mapping
        Further options of `toptune.extract.extract`.
    n_pictures : int
        Most images of the sample.
    """
    # The sample is a data set of its own, in one piece: names and splits of the whole have no meaning for it.
    of_source = {name: options.get(name) for name in ("split", "path_column", "label_column")}
    known = {name: value for name, value in options.items() if name not in ("dataset", *of_source)}
    sample = Sample(open_source(data, **of_source), n_pictures)
    with tempfile.TemporaryDirectory(prefix="toptune-") as folder:
        done = extract_models(sample, models=models, store=folder, dataset="sample", **known)
    # Models that shared a pass have the seconds of that pass, and so the same rate; passes follow each other.
    rates = {summary.images_per_second for summary in done}
    return 1 / sum(1 / rate for rate in rates)


class Sample:
    """Source of some images of another source, evenly spread.

    Parameters
    ----------
    source : ImageSource
        All images.
    n_pictures : int
        Most images of the sample.
    """

    def __init__(self, source: ImageSource, n_pictures: int) -> None:
        self.name = source.name
        self._source = source
        whole = source.manifest()
        self._rows = even_sample(whole.n_rows, n_pictures)
        self._manifest = whole.take(self._rows)

    def manifest(self) -> Manifest:
        """Return the manifest of the sample."""
        return self._manifest

    def read(self, row: int) -> bytes:
        """Return the bytes of one image of the sample."""
        return self._source.read(int(self._rows[row]))
