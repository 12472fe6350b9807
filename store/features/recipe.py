"""`Recipe`: everything that decides the numbers of a cache, and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError, FormatVersionError, InputError
from toptune.store.files.json_values import canonical_json, parse_json

# The architecture that stands in the recipes of features made elsewhere.
IMPORTED = "imported"

RECIPE_VERSION = 1
# The route from bytes to pixels decides numbers, so that its name is part of each recipe. A change of the
# route must change the name, and the old route stays: what was begun with it goes on with it.
_EXACT = "pillow-rgb-upright-2"
# Name of each route in recipes. The first routes ignored what files say of samples of more than 8 bits.
ROUTES = {
    "exact": _EXACT,
    # Decoded like "exact", and then resized by torch.
    "fast": f"{_EXACT}+torch-resize-1",
    "draft": "pillow-rgb-upright-draft-2",
    # Plain JPEGs are decoded by nvJPEG and all else like "exact"; everything is resized in float32 by torch.
    "gpu": f"{_EXACT}+nvjpeg-1+torch-float-resize-1",
    "exact-1": "pillow-rgb-upright-1",
    "draft-1": "pillow-rgb-upright-draft-1",
}
# Value of --decode of each route, as messages name it.
ROUTE_NAMES = {recipe: name for name, recipe in ROUTES.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How features are computed from an image's bytes.

    Equal recipes give interchangeable features; different ones never share a cache. Equality is that of
    the canonical text, so tuples and lists are the same and 1 and 1.0 are not. Who computed
    them, when and where is recorded beside the recipe, never in it (DESIGN §2).

    Attributes
    ----------
    architecture : str
        timm's architecture name, without tag or source.
    model_kwargs : Mapping
        Arguments of ``timm.create_model`` beside the architecture; JSON values only.
    weights : str
        SHA-256 over names, dtypes, shapes and bytes of the tensors as loaded.
    transform : Mapping
        timm's resolved data configuration: ``input_size``, ``interpolation``, ``mean``, ``std``,
        ``crop_pct``, ``crop_mode``; JSON values only.
    decode : str
        Name and version of the route from bytes to RGB pixels.
    precision : str
        ``"fp32"``, ``"bf16"`` or ``"fp16"``: the arithmetic of the forward pass.
    forward : str
        How the model was changed without changing its function: ``""`` (not at all),
        ``"folded-1"`` (batch norms folded into convolutions), ``"compiled"``, or both with ``+``.
    version : int
        Version of this record's meaning.
    """

    architecture: str
    model_kwargs: Mapping[str, Any]
    weights: str
    transform: Mapping[str, Any]
    decode: str
    precision: str
    forward: str = ""
    version: int = RECIPE_VERSION

    def __post_init__(self) -> None:
        for name in ("model_kwargs", "transform"):
            try:
                # A round trip through JSON turns tuples into lists, so that a recipe equals itself after it
                # was read.
                plain = json.loads(canonical_json(dict(getattr(self, name))))
            except (TypeError, ValueError) as error:
                raise InputError(f"recipe field {name} must hold finite JSON values: {error}") from error
            object.__setattr__(self, name, plain)  # The dataclass is frozen for everybody else.

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Recipe) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def to_json(self) -> str:
        """Canonical text: equal recipes give equal bytes."""
        # A plain forward pass is left out, so that recipes from before this field keep their digests.
        return canonical_json(
            {name: value for name, value in asdict(self).items() if name != "forward" or value}
        )

    @classmethod
    def from_json(cls, text: str, path: Path | None = None) -> "Recipe":
        """Read what `to_json` wrote.

        Parameters
        ----------
        text : str
            Canonical text of a recipe.
        path : Path, optional
            File that holds the text; errors name it.

        Raises
        ------
        CorruptError
            If the text is not a recipe: not JSON, or with missing or unknown fields.
        FormatVersionError
            If a newer toptune wrote it.
        """
        where = "" if path is None else f"{path}: "
        try:
            values = parse_json(text)
            # The version comes first: a newer recipe may have fields that this class does not know.
            if values.get("version") != RECIPE_VERSION:
                raise FormatVersionError(
                    f"{where}the recipe has version {values.get('version')!r}; this toptune supports version "
                    f"{RECIPE_VERSION}; upgrade toptune, or extract the features again",
                    path,
                )
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise CorruptError(f"{where}not a recipe: {error}; was the file edited by hand?", path) from error

    @property
    def is_imported(self) -> bool:
        """Whether the features were made elsewhere: no backbone computes them again."""
        return self.architecture == IMPORTED

    @property
    def arithmetic(self) -> str:
        """Precision, and how the forward pass was changed: ``fp32``, ``bf16, folded-1``."""
        return ", ".join(filter(None, (self.precision, self.forward)))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical text, 64 hexadecimal digits; its first 8 stand in the path."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def differences(self, other: "Recipe") -> list[str]:
        """Say in words what differs, one line a field: ``transform.crop_pct 0.875 against 0.95``.

        A route of decoding is named with the option that chooses it.
        """
        lines: list[str] = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
                keys = sorted(mine.keys() | theirs.keys())
                lines += [
                    f"{field.name}.{key} {mine.get(key)} against {theirs.get(key)}"
                    for key in keys
                    if canonical_json(mine.get(key)) != canonical_json(theirs.get(key))
                ]
            elif mine != theirs and field.name == "decode":
                lines.append(f"decode {_route_in_words(mine)} against {_route_in_words(theirs)}")
            elif mine != theirs:
                lines.append(f"{field.name} {mine} against {theirs}")
        return lines


def _route_in_words(route: str) -> str:
    """Write a recipe's route with the option of ``extract`` that chooses it, where one does."""
    return f"{route} (--decode {ROUTE_NAMES[route]})" if route in ROUTE_NAMES else route
