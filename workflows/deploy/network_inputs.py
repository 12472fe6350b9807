"""Which images an exported file takes: one tensor for all backbones that see the same, else one for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toptune.extract.backbone.transform import EvalTransform
from toptune.store.files.json_values import canonical_json
from toptune.workflows.predict.classifier import Classifier

# The name stands in files that were exported already, and programs feed their images by it.
INPUT = "pictures"


@dataclass(frozen=True)
class NetworkInput:
    """One tensor of images that a file takes.

    Attributes
    ----------
    name : str
        Name in the file: ``pictures``, or ``pictures_<height>x<width>`` where there are several.
    transform : EvalTransform
        How the images are made.
    places : tuple of int
        The backbones that see them, by their place among those of the classifier.
    """

    name: str
    transform: EvalTransform
    places: tuple[int, ...]

    def describe(self, *, is_normalizing: bool) -> dict[str, Any]:
        """Return how images become this tensor, as JSON values."""
        config, transform = self.transform.config, self.transform
        height, width = transform.size
        reading = transform.decoding.reading
        values = "RGB" if not reading.is_stated else f"{transform.n_channels} bands"
        return {
            "name": self.name,
            "shape": ["N", transform.n_channels, height, width],
            "dtype": "float32",
            "values": f"{values} from 0 to 1"
            if is_normalizing
            else f"{values} from 0 to 1, minus mean, divided by std, channel by channel",
            "is_normalized_inside": is_normalizing,
            "mean": config["mean"],
            "std": config["std"],
            "interpolation": config["interpolation"],
            "crop_pct": config["crop_pct"],
            "crop_mode": config["crop_mode"],
            "resize": transform.resized_to,
            "decode": transform.route,
            "resized_by": "torch" if transform.route in ("fast", "gpu") else "Pillow",
        } | reading.words


def network_inputs(classifier: Classifier, *, is_normalizing: bool) -> list[NetworkInput]:
    """List the inputs of a file, in the order of the backbones.

    Parameters
    ----------
    classifier : Classifier
    is_normalizing : bool
        Whether the file normalizes; backbones that differ in nothing else then share an input.
    """
    groups: dict[str, list[int]] = {}
    for place, backbone in enumerate(classifier.backbones):
        groups.setdefault(canonical_json(_seen(backbone.transform, is_normalizing)), []).append(place)
    found: list[NetworkInput] = []
    for places in groups.values():
        transform = classifier.backbones[places[0]].transform
        height, width = transform.size
        base = INPUT if len(groups) == 1 else f"{INPUT}_{height}x{width}"
        same = sum(each.name.startswith(base) for each in found)
        found.append(NetworkInput(f"{base}_{same + 1}" if same else base, transform, tuple(places)))
    return found


def _seen(transform: EvalTransform, is_normalizing: bool) -> Mapping[str, Any]:
    moments = {} if is_normalizing else {name: transform.config[name] for name in ("mean", "std")}
    return {**transform.geometry, **moments}
