"""What an exported file says of itself: metadata inside, a model card beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toptune.workflows.classifier import Classifier
from toptune.workflows.exported_network import OUTPUTS
from toptune.workflows.finetuned import FineTunedClassifier

_FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")
_LISTED_CLASSES = 200


def describe_export(classifier: Classifier, *, is_normalizing: bool, head_dtype: str) -> dict[str, Any]:
    """Give the metadata that stand inside the file: each a name and JSON values.

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
    """Name the layers that are used, all of a fine-tuned network, and tell what was trained."""
    if isinstance(classifier, FineTunedClassifier):
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
    """Write the model card: data, backbone, head, metrics, costs, input, limits."""
    run = classifier.record
    sections = [
        f"# {Path(report['out']).name}",
        f"Classifies pictures into {len(classifier.classes)} classes. Exported by toptune from the run "
        f"`{run.folder.name}` on {metadata['created']['when'][:10]}.",
        _section("Input", _input(metadata["input"], Path(report["out"]).name)),
        _section("Outputs", _bullets(metadata["outputs"])),
        _section("Classes", _classes(classifier.classes)),
        _section("Data", _bullets(_data(run.config))),
        _section("Network", _bullets(_network(metadata))),
        _section("Metrics", _metrics(run.metrics)),
        _section("Costs", _bullets(_costs(run.metrics))),
        _section("Check of this file", _check(report, tolerance)),
        _section("Limits", "\n".join(f"- {line}" for line in _limits(run.config, run.metrics))),
    ]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


def _bullets(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items())


def _input(facts: Mapping[str, Any], name: str) -> str:
    lines = [
        f"`{facts['name']}`, {facts['dtype']} of shape ({', '.join(map(str, facts['shape']))}), any N: "
        f"{facts['values']}.",
        "",
        "Turn the picture upright by its EXIF tag, convert it to RGB, resize it (crop_pct "
        f"{facts['crop_pct']} is the part that the crop keeps), crop it, divide by 255"
        + (". Mean and std are applied inside." if facts["is_normalized_inside"] else ", normalise.")
        + " This is timm's evaluation transform:",
        "",
        "```python",
        "from timm.data import create_transform",
        "transform = create_transform(",
        f"    input_size={tuple(facts['shape'][1:])}, interpolation={json.dumps(facts['interpolation'])},",
        f"    crop_pct={facts['crop_pct']}, crop_mode={json.dumps(facts['crop_mode'])},",
        f"    mean={_mean(facts)}, std={_std(facts)},",
        ")",
        "```",
    ]
    return "\n".join(lines) + "\n\n" + _usage(name)


def _mean(facts: Mapping[str, Any]) -> tuple[float, ...]:
    return (0.0, 0.0, 0.0) if facts["is_normalized_inside"] else tuple(facts["mean"])


def _std(facts: Mapping[str, Any]) -> tuple[float, ...]:
    return (1.0, 1.0, 1.0) if facts["is_normalized_inside"] else tuple(facts["std"])


def _usage(name: str) -> str:
    if name.endswith(".onnx"):
        lines = [
            "import onnxruntime",
            f"session = onnxruntime.InferenceSession({json.dumps(name)})",
            'probabilities, logits = session.run(None, {"pictures": pictures})',
            'classes = session.get_modelmeta().custom_metadata_map["classes"]  # JSON',
        ]
    else:
        lines = [
            "import torch",
            'files = {"classes": ""}',
            f"network = torch.export.load({json.dumps(name)}, extra_files=files).module()",
            'probabilities = network(pictures)["probabilities"]  # files["classes"] is JSON',
        ]
    return "\n".join(["```python", *lines, "```"])


def _classes(classes: list[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in classes[:_LISTED_CLASSES])
    if len(classes) > _LISTED_CLASSES:
        return f"{listed} and {len(classes) - _LISTED_CLASSES} more, all in the file's metadata."
    return f"In the order of the outputs' columns: {listed}."


def _data(config: Mapping[str, Any]) -> dict[str, Any]:
    split, counts = config["split"], config["classes"].values()
    version = config.get("dataset_version")
    return {
        "data set": config["dataset"] + (f", version {version}" if version else ""),
        "pictures": f"{split['n_train']} to train, {split['n_test']} to test ({split['rule']})",
        "pictures a class to train": f"{min(counts)} to {max(counts)}",
    }


def _network(metadata: Mapping[str, Any]) -> dict[str, Any]:
    backbone, head = metadata["backbone"], metadata["head"]
    steps = head["preprocessing"]
    return {
        "backbone": f"{backbone['name']} ({backbone['architecture']})" + (", frozen" if steps else ""),
        "its licence": backbone["licence"] or "not stated by its weights",
        "its origin": backbone["origin"] or "not stated by its weights",
        "its weights": f"sha256 {backbone['weights_sha256']}",
        "layers": ", ".join(backbone["layers"]),
        **({"preprocessing": steps["spec"]} if steps else {}),
        "head": f"{head['name']}, {json.dumps(head['selected'], ensure_ascii=False)}",
        "arithmetic": "float32" + (f"; {head['dtype']} after the backbone" if steps else ""),
    }


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics["n_test"]:
        return "There were no test pictures."
    figures = {name: f"{metrics[name]:.4f}" for name in _FIGURES}
    return f"On {metrics['n_test']} test pictures that were not trained on:\n\n{_bullets(figures)}"


def _costs(metrics: Mapping[str, Any]) -> dict[str, Any]:
    facts = {f"training, {name}": f"{value:.2f} s" for name, value in metrics["seconds"].items()}
    costs = metrics.get("costs")
    if costs is None:
        return facts
    estimate = " (an estimate)" if costs["energy"]["estimate"] else ""
    facts |= {
        "training, processors": f"{costs['cpu_seconds']:.2f} s, {costs['energy_joules']:.0f} J{estimate}",
        "training, peak memory": f"{costs['peak_memory_bytes'] / 1e6:.0f} MB",
    }
    if costs.get("co2e_kg") is not None:
        facts["training, CO2e"] = f"{1000 * costs['co2e_kg']:.2g} g ({costs['co2e']['country']})"
    if "extract_seconds" in costs:
        energy = ""
        if "extract_joules" in costs:
            estimate = " (an estimate)" if costs["extract_energy_estimate"] else ""
            energy = f", {costs['extract_joules']:.0f} J{estimate}"
        facts["extraction of the features, once for all runs on them"] = (
            f"{costs['extract_seconds']:.2f} s for {costs['extract_pictures']} pictures{energy}"
        )
    return facts


def _check(report: Mapping[str, Any], tolerance: float) -> str:
    check = report["check"]
    sizes = " and ".join(map(str, check["batch_sizes"]))
    lines = [
        f"Run on {check['n_pictures']} pictures of {check['data']} in batches of {sizes}, its probabilities "
        f"differ from the run's own in float32 by at most {check['difference']:.1e} (accepted: "
        f"{tolerance:.0e}), and from `toptune predict` by at most {check['difference_from_predict']:.1e}; "
        f"{check['n_other_labels']} labels differ.",
        *(f"\n{warning[0].upper()}{warning[1:]}." for warning in report["warnings"]),
    ]
    return "\n".join(lines)


def _limits(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    found = {name: each["recall"] for name, each in metrics["per_class"].items() if each["support"]}
    weakest = sorted((recall, name) for name, recall in found.items() if recall < 1)[:3]
    shown = ", ".join(f"`{name}` {recall:.2f}" for recall, name in weakest)
    return [
        "It names one of the classes above for every picture, also for one that belongs to none.",
        "The metrics hold for pictures like those of the data set; nothing is known of others.",
        "Probabilities are the network's own, not calibrated."
        if config.get("kind") == "finetune"
        else "Probabilities were calibrated on the training data's distribution of classes.",
        *([f"Classes found least often (recall): {shown}."] if shown else []),
        *(f"From training: {warning}." for warning in config["warnings"]),
    ]
