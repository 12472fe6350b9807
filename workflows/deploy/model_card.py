"""An exported file has metadata inside and a model card beside it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toptune.store.files.json_values import json_text
from toptune.store.files.writing import write_text
from toptune.train.figures.metrics import ClassTables
from toptune.train.runs.metrics_record import RunMetrics
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.workflows.deploy.network import NUMBERS_OUTPUT, form_of, heads_of, outputs_of
from toptune.workflows.deploy.network_inputs import INPUT, NetworkInput
from toptune.workflows.predict.classifier import Classifier
from toptune.workflows.predict.finetuned_network import FineTunedNetwork
from toptune.workflows.predict.fused_network import FusedNetwork

_TEMPLATE = Path(__file__).with_suffix(".md")
# A card of more classes would be a list and nothing else; the file itself holds all of them.
_LISTED_CLASSES = 200


def describe_export(
    classifier: Classifier, inputs: Sequence[NetworkInput], *, is_normalizing: bool, head_dtype: str
) -> dict[str, Any]:
    """Return the metadata that stand inside the file, by name, as JSON values.

    Returns
    -------
    dict
        ``format``, ``classes`` (in the order of the outputs' columns), ``input``, ``outputs``, ``backbone``,
        ``head`` and ``dataset``. A file of several backbones is of version 2, and has ``inputs`` and
        ``backbones``, which are lists, in place of ``input`` and ``backbone``.
    """
    config, form = classifier.record.config, form_of(classifier)
    described = [each.describe(is_normalizing=is_normalizing) for each in inputs]
    backbones = _backbones(classifier, inputs)
    is_one = len(backbones) == 1
    return {
        "format": {"name": "toptune-export", "version": 1 if is_one else 2},
        "classes": classifier.classes,
        **({"input": described[0]} if is_one else {"inputs": described}),
        "outputs": {
            name: f"float32 (N, {len(classifier.classes)}){_meaning(name, form)}"
            for name in outputs_of(form.task)
        },
        **_of_task(form),
        **({"backbone": backbones[0]} if is_one else {"backbones": backbones}),
        "head": _head(classifier, head_dtype),
        "dataset": {"name": config["dataset"], "version": config.get("dataset_version")},
    }


def _meaning(output: str, form: AnswerForm) -> str:
    """Say what the numbers of an output are."""
    if output == NUMBERS_OUTPUT:
        return ", whole steps of the scale" if form.is_ordinal else ", in the unit of each target"
    if form.task == MULTILABEL:
        return "; sigmoid of them gives the probabilities" if output == "logits" else ", each by itself"
    return "; softmax of them gives the probabilities" if output == "logits" else ", rows sum to 1"


def _of_task(form: AnswerForm) -> dict[str, Any]:
    """Return what only files of another task than classification have."""
    if form.task == CLASSIFICATION:
        return {}
    thresholds = None if form.thresholds is None else form.thresholds.tolist()
    return {"task": form.task} | ({} if thresholds is None else {"thresholds": thresholds})


def inputs_in(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the inputs that the metadata of a file describe."""
    return [metadata["input"]] if "input" in metadata else list(metadata["inputs"])


def backbones_in(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the backbones that the metadata of a file describe."""
    return [metadata["backbone"]] if "backbone" in metadata else list(metadata["backbones"])


def _backbones(classifier: Classifier, inputs: Sequence[NetworkInput]) -> list[dict[str, Any]]:
    """Describe each backbone and the layers that are used of it (``all`` of a fine-tuned network)."""
    if isinstance(classifier.network, FineTunedNetwork):
        named = [(classifier.record.config["model"], ["all"])]
    else:
        named = [
            (source.model, [array.own_name for array in source.of(each.run.arrays)])
            for each in heads_of(classifier)
            for source in each.run.sources
        ]
    input_of = {place: each.name for each in inputs for place in each.places}
    found = []
    for place, (backbone, (model, layers)) in enumerate(zip(classifier.backbones, named, strict=True)):
        pretrained = getattr(backbone.model, "pretrained_cfg", None) or {}
        described = {
            "name": model,
            "architecture": backbone.recipe.architecture,
            "weights_sha256": backbone.recipe.weights,
            "licence": pretrained.get("license"),
            "origin": pretrained.get("origin_url") or pretrained.get("hf_hub_id"),
            "layers": layers,
        }
        found.append(described if len(named) == 1 else described | {"input": input_of[place]})
    return found


def _libraries(classifier: Classifier) -> list[str]:
    """Name the libraries of the backbones: an architecture of another library than timm begins with it."""
    parts = [each.recipe.architecture.rpartition(":")[0] for each in classifier.backbones]
    return list(dict.fromkeys(part or "timm" for part in parts))


def _head(classifier: Classifier, head_dtype: str) -> dict[str, Any]:
    """Describe what was trained on the backbones."""
    if isinstance(classifier.network, FineTunedNetwork):
        config = classifier.record.config
        return {
            "name": f"fine-tuned ({config['options']['depth']})",
            "preprocessing": None,
            "selected": config["selected"],
            "dtype": "float32",
        }
    if isinstance(classifier.network, FusedNetwork):
        fused = classifier.network.run
        heads = [each.run.head.name for each in heads_of(classifier)]
        return {
            "name": f"{len(heads)} heads ({', '.join(dict.fromkeys(heads))}), weighed",
            "preprocessing": fused.members[0].config["preprocessing"],
            "selected": {each.model: each.weight for each in fused.fusion.members}
            | {"temperature": fused.fusion.temperature},
            "dtype": head_dtype,
        }
    run = classifier.run
    return {
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
    form = form_of(classifier)
    facts = ModelCardData(
        library_name="toptune",
        pipeline_tag="other" if form.task == REGRESSION else "image-classification",
        tags=_libraries(classifier),
        metrics=["accuracy"] if form.task == CLASSIFICATION else list(task_of(form.task).figures),
    )
    card = ModelCard.from_template(
        facts,
        template_path=str(_TEMPLATE),
        name=Path(report["out"]).name,
        run=run.folder.name,
        date=metadata["created"]["when"][:10],
        inputs=inputs_in(metadata),
        outputs=metadata["outputs"],
        backbones=backbones_in(metadata),
        head=metadata["head"],
        selected=json_text(metadata["head"]["selected"]),
        listed=", ".join(map(_code, classes[:_LISTED_CLASSES])),
        n_unlisted=max(0, len(classes) - _LISTED_CLASSES),
        weakest=_weakest_classes(RunMetrics.from_json(run.metrics).tables(run.folder))
        if form.task == CLASSIFICATION
        else "",
        task=form.task,
        figures=task_of(form.task).figures,
        config=run.config,
        metrics=run.metrics,
        check=report["check"],
        tolerance=tolerance,
        warnings=report["warnings"],
        code=_code,
        transform_of=_transform_of,
    )
    write_text(path, str(card))


def _weakest_classes(tables: ClassTables) -> str:
    """Name the three classes of the lowest recall, of those that were tested and missed an image."""
    found = zip(tables.recall.tolist(), tables.classes, tables.support.tolist(), strict=True)
    weakest = sorted((recall, name) for recall, name, support in found if support and recall < 1)[:3]
    return ", ".join(f"{_code(name)} {recall:.2f}" for recall, name in weakest)


def _transform_of(input_name: str) -> str:
    """Name the variable of the transform that makes an input, in the program of the card."""
    return input_name.replace(INPUT, "transform", 1)


def _code(name: str) -> str:
    """Write a name as a code span on one line, in which Markdown and backticks of the name have no effect."""
    line = " ".join(name.splitlines())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"
