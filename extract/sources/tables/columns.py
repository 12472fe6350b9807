"""`choose_columns`: columns of images and labels in a table of Hugging Face are told by type and name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from toptune.errors import InputError
from toptune.extract.images.labels import join_labels
from toptune.extract.sources.tables.manifest_columns import (
    LABEL_NAMES as OTHER_LABEL_NAMES,
    first_named,
)
from toptune.store.datasets.manifest import LABELS_COLUMN
from toptune.store.datasets.outside_tables import is_text_or_number, plain_values
from toptune.store.datasets.outside_text import column_names, outside_column, outside_text
from toptune.store.files.json_values import parse_json

# Without feature types, a bytes column counts as an image only if it has one of these names.
IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture")
# The first of these names that a table has is its label; without one, the first ClassLabel of any name is.
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
# Columns of these names exist in every manifest, so that a table's columns cannot have them.
RESERVED = ("id", "label", "split", "bytes", "modified_ns", LABELS_COLUMN)


@dataclass(frozen=True)
class TableColumns:
    """Columns that toptune takes from a table.

    Attributes
    ----------
    image : str
        Column of images: a struct of bytes and path, or bytes.
    label : str or None
        Column with one label for each image.
    several : str or None
        Column with a list of labels for each image.
    others : tuple of str
        Further columns of text, of numbers or of ClassLabels.
    class_names : dict of str to list of str
        Names of the classes, for each column of ClassLabels.
    """

    image: str
    label: str | None
    several: str | None
    others: tuple[str, ...]
    class_names: Mapping[str, list[str]]

    @property
    def beside(self) -> list[str]:
        """Names of all columns but the images."""
        found = (self.label, self.several, *self.others)
        # A label that the caller names stays among the other columns too.
        return list(dict.fromkeys(name for name in found if name is not None))


def has_images(schema: pa.Schema) -> bool:
    """Return whether a table has a column of images."""
    return bool(_images(schema, schema_features(schema)))


def schema_features(schema: pa.Schema) -> dict[str, object]:
    """Return the features that the `datasets` library noted in a schema; empty where it noted none."""
    try:
        noted = parse_json((schema.metadata or {})[b"huggingface"])
        return dict(noted["info"]["features"])
    except (KeyError, TypeError, ValueError):
        return {}


def choose_columns(
    schema: pa.Schema, features: Mapping[str, object], where: Path, *, label_column: str | None = None
) -> TableColumns:
    """Tell images, labels and other columns apart.

    Parameters
    ----------
    schema : pyarrow.Schema
        Names and types of the columns.
    features : mapping
        Features as ``dataset_info.json`` or the schema's metadata give them; may be empty.
    where : path
        Path of the table, for messages.
    label_column : str, optional
        Column of the labels that the caller names; by default it is told by its name and type.

    Raises
    ------
    InputError
        If two columns have one name, there is no column of images, or several and none of them is called
        ``image``, or the named column holds no labels.
    """
    column_names(schema.names, str(where))
    images = _images(schema, features)
    if len(images) > 1:
        images = [name for name in images if name in ("image", "img")] or images
    if len(images) != 1:
        raise InputError(
            f"{where} has {len(images)} columns of images ({', '.join(images) or 'none'}) among "
            f"{', '.join(schema.names)}; keep one, a struct of bytes and path, or call one of them 'image'"
        )
    class_names = {
        name: names for name in schema.names if (names := _class_names(features.get(name), where)) is not None
    }
    lists = [name for name in schema.names if _is_list_of_labels(schema.field(name).type)]
    several = next((name for name in lists if name in (*LABEL_NAMES, *class_names)), None)
    singles = [name for name in schema.names if name not in images and _is_label(schema.field(name).type)]
    if label_column is not None:
        # The columns keep the names of the file, by which they are read, and are asked for by their text.
        meant = next((name for name in singles if outside_text(name) == label_column), None)
        if meant is None:
            raise InputError(
                f"{where} has no column {label_column!r} of text or numbers for --label-column; it has "
                f"{', '.join(map(str.strip, singles)) or 'none'}"
            )
        label_column = meant
    named = [label_column, *(name for name in LABEL_NAMES if name in singles)]
    known = [
        *named,
        *(name for name in singles if name in class_names),
        first_named(singles, OTHER_LABEL_NAMES),
    ]
    label = next((name for name in known if name is not None), None)
    others = [
        name
        for name in singles
        if (name != label or label_column is not None)
        and outside_text(name) not in RESERVED
        and (name in class_names or is_text_or_number(schema.field(name).type))
    ]
    return TableColumns(images[0], label, several, tuple(others), class_names)


def label_columns(
    table: pa.Table, columns: TableColumns, where: Path
) -> tuple[list[str | None], dict[str, list[str | None]]]:
    """Return labels and further columns of a table as text.

    Raises
    ------
    InputError
        If a number is no class of its column, or a name cannot be one of several labels.
    """
    labels: list[str | None] = [None] * table.num_rows
    extra = {}
    if columns.several is not None:
        rows = table.column(columns.several).to_pylist()
        names = columns.class_names.get(columns.several)
        place = f"column {columns.several!r} of {where}"
        several = [
            None
            if row is None
            else [each if names is None else _class_name(each, names, place) for each in row]
            for row in rows
        ]
        labels, extra[LABELS_COLUMN] = join_labels(several, place)
    if columns.label is not None:
        labels = _texts(table, columns.label, columns, where)
    extra |= {outside_text(name) or name: _texts(table, name, columns, where) for name in columns.others}
    return labels, extra


def _texts(table: pa.Table, name: str, columns: TableColumns, where: Path) -> list[str | None]:
    values = plain_values(table.column(name))
    names = columns.class_names.get(name)
    if names is None:
        return outside_column(values)
    return outside_column(_class_name(value, names, f"column {name!r} of {where}") for value in values)


def _class_name(value: object, names: Sequence[str], where: str) -> object:
    """Return the name of a ClassLabel, whose value is its number, or text where others made the table."""
    text = outside_text(value)
    # A ClassLabel of -1 means that the label is not known.
    if isinstance(value, str) or text is None or text == "-1":
        return None if text == "-1" else text
    if not text.isdecimal() or int(text) >= len(names):
        raise InputError(
            f"{where} has the label {text}, and its features name {len(names)} classes, from 0; the file "
            "and its dataset_info.json do not belong together"
        )
    return names[int(text)]


def _images(schema: pa.Schema, features: Mapping[str, object]) -> list[str]:
    return [field.name for field in schema if _is_image(field, features.get(field.name))]


def _is_image(field: pa.Field, feature: object) -> bool:
    kind = field.type
    is_noted = isinstance(feature, dict) and feature.get("_type") == "Image"
    if pa.types.is_struct(kind):
        inner = {each.name: each.type for each in kind}
        return "bytes" in inner and _is_bytes(inner["bytes"]) and (is_noted or "path" in inner)
    return _is_bytes(kind) and (is_noted or field.name.lower() in IMAGE_NAMES)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_label(kind: pa.DataType) -> bool:
    """Return whether values of a type can be labels; bytes may be names."""
    return is_text_or_number(kind) or _is_bytes(kind)


def _is_list_of_labels(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests) and _is_label(kind.value_type)


def _class_names(feature: object, where: Path) -> list[str] | None:
    """Return the names of a ClassLabel, or of a list of ClassLabels in any form that `datasets` writes."""
    if isinstance(feature, list) and feature:
        feature = feature[0]
    if isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names"):
        if not isinstance(feature["names"], list):
            raise InputError(
                f"the features of {where} have {feature['names']!r:.40} for the names of classes, which are "
                "a list; write the data set again"
            )
        return [str(name) for name in feature["names"]]
    return None
