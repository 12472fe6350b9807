"""The model card of a run: what it is, how well it did, and how it is used."""

from pathlib import Path
from typing import Any

from toptune.extract.backbone.libraries.named_code import names_code
from toptune.store.files.json_values import read_json
from toptune.store.files.names import is_path
from toptune.train.runs.record import CONFIG, METRICS, RunRecord
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION

CARD = "README.md"
# Between the names of several backbones.
JOINT = " + "
_FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mean_average_precision": "mean average precision",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "subset_accuracy": "images with all labels right",
    "log_loss": "log loss",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
    "spearman": "Spearman's correlation",
}
# What a run is called by its task, what it learned, and the attribute of a prediction that says it.
_TASKS = {
    CLASSIFICATION: ("A classifier of images", "Classes", "label"),
    MULTILABEL: ("A classifier of images with several labels", "Labels", "labels"),
    REGRESSION: ("A model that reads numbers off images", "Numbers", "targets"),
}
_CLASSES = 50
_NOT_BY_NAME = (
    "A folder, a checkpoint, or code that makes a network is not found by a name on other machines: whoever "
    "opens the run says where it is, and another network is refused."
)


def card_of(folder: Path, record: RunRecord, repository: str) -> str:
    """Write the card of a run in Markdown, with the metadata of the hub before it.

    Parameters
    ----------
    folder : path
        Folder with the records of the run, as they are handed on.
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
    what, learned, attribute = _TASKS[record.task_name]
    # The hub has no tag for numbers read off images.
    task = {} if record.task_name == REGRESSION else {"pipeline_tag": "image-classification"}
    kind = "fine-tuned" if record.is_finetuned else "frozen-backbone"
    data: Any = ModelCardData(library_name="toptune", tags=["toptune", kind], **task)
    placed = "" if record.is_finetuned else _place(record)
    classes = list(content.get("classes") or {})
    shown = ", ".join(f"`{_plain(name)}`" for name in classes[:_CLASSES])
    lines = [
        "---",
        data.to_yaml().strip(),
        "---",
        "",
        f"# {_plain(repository)}",
        "",
        f"{what} that toptune trained on the data set "
        f"`{_plain(dataset)}`"
        + (
            ": a network that was fine-tuned whole."
            if record.is_finetuned
            else f": a head on features of the frozen backbone `{_plain(model)}`, whose weights are not in "
            "this repository; toptune loads them by that name and compares their digest."
            + (f" {_NOT_BY_NAME}" if placed else "")
        ),
        "",
        f"{learned} ({len(classes)}): {shown}{', ...' if len(classes) > _CLASSES else ''}",
        "",
        *_figures(metrics),
        "## Use",
        "",
        "```python",
        "from toptune.workflows import Classifier",
        "",
        f'classifier = Classifier.from_hub("{repository}"{placed})',
        f'print(classifier.predict(["photo.jpg"])[0].{attribute})',
        "```",
        "",
        "The repository holds safetensors and JSON. Nothing in it is executed.",
        "",
    ]
    return "\n".join(lines)


def _place(record: RunRecord) -> str:
    """Return the argument that says where a backbone is, if no other machine finds it by its name."""
    backbones = [source.backbone for source in record.all_sources]
    if any(backbone.get("weights") for backbone in backbones):
        return ', weights="FILE"' if len(backbones) == 1 else ', weights=["NAME=FILE"]'
    names = [str(backbone.get("name") or "") for backbone in backbones] or list(record.models)
    if not any(
        name.startswith("custom:") or names_code(name) or ":/" in name or is_path(name) for name in names
    ):
        return ""
    return ', model="PLACE"' if len(names) == 1 else ', model=["NAME=PLACE"]'


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
