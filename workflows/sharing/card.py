"""The model card of a run: what it is, how well it did, and how it is used."""

from pathlib import Path
from typing import Any

from toptune.store.files.json_values import read_json
from toptune.train.runs.record import CONFIG, METRICS, RunRecord

CARD = "README.md"
_FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log loss",
}
_CLASSES = 50


def card_of(folder: Path, record: RunRecord, repository: str) -> str:
    """Write the card of a run in Markdown, with the metadata of the hub before it.

    Parameters
    ----------
    folder : path
        The RUN folder.
    record : RunRecord
        Its record.
    repository : str
        ``user/name``, for the example.
    """
    from huggingface_hub import ModelCardData

    content = read_json(folder / CONFIG, advice="train again")
    metrics = read_json(folder / METRICS, advice="train again") if (folder / METRICS).is_file() else {}
    model = str(content.get("model") or "several backbones")
    dataset = str(content.get("dataset", ""))
    data: Any = ModelCardData(
        library_name="toptune", pipeline_tag="image-classification", tags=["toptune", "frozen-backbone"]
    )
    classes = list(content.get("classes") or {})
    shown = ", ".join(f"`{_plain(name)}`" for name in classes[:_CLASSES])
    lines = [
        "---",
        data.to_yaml().strip(),
        "---",
        "",
        f"# {_plain(repository)}",
        "",
        f"A classifier of images that toptune trained on the data set "
        f"`{_plain(dataset)}`"
        + (
            ": a network that was fine-tuned whole."
            if record.is_finetuned
            else f": a head on features of the frozen backbone `{_plain(model)}`, whose weights are not in "
            "this repository; toptune loads them by that name and compares their digest."
        ),
        "",
        f"Classes ({len(classes)}): {shown}{', ...' if len(classes) > _CLASSES else ''}",
        "",
        *_figures(metrics),
        "## Use",
        "",
        "```python",
        "from toptune.workflows import Classifier",
        "",
        f'classifier = Classifier.from_hub("{repository}")',
        'print(classifier.predict(["photo.jpg"])[0].label)',
        "```",
        "",
        "The repository holds safetensors and JSON. Nothing in it is executed.",
        "",
    ]
    return "\n".join(lines)


def _figures(metrics: dict[str, Any]) -> list[str]:
    rows = [
        f"| {words} | {metrics[name]:.4f} |"
        for name, words in _FIGURES.items()
        if isinstance(metrics.get(name), float)
    ]
    if not rows:
        return []
    return [
        f"On {metrics.get('n_test', 'the')} test images:",
        "",
        "| figure | value |",
        "|---|---|",
        *rows,
        "",
    ]


def _plain(text: str) -> str:
    """Return text without what Markdown and HTML would take for their own."""
    return "".join(letter if letter.isprintable() and letter not in "`<>|[]\\" else "_" for letter in text)
