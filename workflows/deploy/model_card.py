"""An exported file has metadata inside and a model card beside it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toptune.store.files.json_values import json_text
from toptune.store.files.writing import write_text
from toptune.train.runs.metrics import ClassTables
from toptune.train.runs.metrics_record import RunMetrics
from toptune.workflows.deploy.network import OUTPUTS
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.finetuned_network import FineTunedNetwork

_TEMPLATE = Path(__file__).with_suffix(".md")
# A card of more classes would be a list and nothing else; the file itself holds all of them.
_LISTED_CLASSES = 200


def describe_export(classifier: Classifier, *, is_normalizing: bool, head_dtype: str) -> dict[str, Any]:
    """Return the metadata that stand inside the file, by name, as JSON values.

    Returns
    -------
    dict
        ``format``, ``classes`` (in the order of the outputs' columns), ``input``, ``outputs``, ``backbone``,
        ``head`` and ``dataset``.
    """
    backbone, config = classifier.backbone, classifier.record.config
    height, width = backbone.transform.size
    transform = backbone.transform.config
    values = (
        "RGB from 0 to 1"
        if is_normalizing
        else "RGB from 0 to 1, minus mean, divided by std, channel by channel"
    )
    pretrained = getattr(backbone.model, "pretrained_cfg", None) or {}
    layers, head = _trained_parts(classifier, head_dtype)
    return {
        "format": {"name": "toptune-export", "version": 1},
        "classes": classifier.classes,
        "input": {
            "name": "pictures",
            "shape": ["N", 3, height, width],
            "dtype": "float32",
            "values": values,
            "is_normalized_inside": is_normalizing,
            "mean": transform["mean"],
            "std": transform["std"],
            "interpolation": transform["interpolation"],
            "crop_pct": transform["crop_pct"],
            "crop_mode": transform["crop_mode"],
            "resize": backbone.transform.resized_to,
            "decode": backbone.transform.route,
            "resized_by": "torch" if backbone.transform.route in ("fast", "gpu") else "Pillow",
        },
        "outputs": {
            name: f"float32 (N, {len(classifier.classes)})"
            + ("; softmax of them gives the probabilities" if name == "logits" else ", rows sum to 1")
            for name in OUTPUTS
        },
        "backbone": {
            "name": config["model"],
            "architecture": backbone.recipe.architecture,
            "weights_sha256": backbone.recipe.weights,
            "licence": pretrained.get("license"),
            "origin": pretrained.get("origin_url") or pretrained.get("hf_hub_id"),
            "layers": layers,
        },
        "head": head,
        "dataset": {"name": config["dataset"], "version": config.get("dataset_version")},
    }


def _trained_parts(classifier: Classifier, head_dtype: str) -> tuple[list[str], dict[str, Any]]:
    """Return the layers that are used (``all`` in a fine-tuned network), and what was trained on them."""
    if isinstance(classifier.network, FineTunedNetwork):
        config = classifier.record.config
        name = f"fine-tuned ({config['options']['depth']})"
        return ["all"], {
            "name": name, "preprocessing": None, "selected": config["selected"], "dtype": "float32"
        }  # fmt: skip
    run = classifier.run
    return [array.name for array in run.arrays], {
        "name": run.head.name,
        "preprocessing": run.config["preprocessing"],
        "selected": run.config["selected"],
        "dtype": head_dtype,
    }


def write_card(
    path: Path,
    classifier: Classifier,
    metadata: Mapping[str, Any],
    report: Mapping[str, Any],
    *,
    tolerance: float,
) -> None:
    """Write the model card, which tells of data, backbone, head, metrics, costs, input and limits."""
    from huggingface_hub import ModelCard, ModelCardData

    run, classes = classifier.record, classifier.classes
    facts = ModelCardData(
        library_name="toptune", pipeline_tag="image-classification", tags=["timm"], metrics=["accuracy"]
    )
    card = ModelCard.from_template(
        facts,
        template_path=str(_TEMPLATE),
        name=Path(report["out"]).name,
        run=run.folder.name,
        date=metadata["created"]["when"][:10],
        input=metadata["input"],
        outputs=metadata["outputs"],
        backbone=metadata["backbone"],
        head=metadata["head"],
        selected=json_text(metadata["head"]["selected"]),
        listed=", ".join(map(_code, classes[:_LISTED_CLASSES])),
        n_unlisted=max(0, len(classes) - _LISTED_CLASSES),
        weakest=_weakest_classes(RunMetrics.from_json(run.metrics).tables(run.folder)),
        config=run.config,
        metrics=run.metrics,
        check=report["check"],
        tolerance=tolerance,
        warnings=report["warnings"],
        code=_code,
    )
    write_text(path, str(card))


def _weakest_classes(tables: ClassTables) -> str:
    """Name the three classes of the lowest recall, of those that were tested and missed an image."""
    found = zip(tables.recall.tolist(), tables.classes, tables.support.tolist(), strict=True)
    weakest = sorted((recall, name) for recall, name, support in found if support and recall < 1)[:3]
    return ", ".join(f"{_code(name)} {recall:.2f}" for recall, name in weakest)


def _code(name: str) -> str:
    """Write a name as a code span on one line, in which Markdown and backticks of the name have no effect."""
    line = " ".join(name.splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"
