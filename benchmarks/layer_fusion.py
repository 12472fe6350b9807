"""Learned fusions of layers beside the kernel head on all layers and on searched ones.

Usage::

    python benchmarks/layer_fusion.py ASSETS --store ROOT [--seeds 3] [--datasets a,b] [--models a,b]
        [--methods all searched ...] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` and ``datasets/<name>``. ROOT is a store with every block of each model; of
ViTs class token and patch mean (``toptune extract --layers all --pooling cls,mean``). For each seed a new
stratified split of all rows is drawn, with a fifth of them to test (whole slides for bccd_cells), the same
for every method. The methods are

``all``, ``searched``
    ``train --head falkon`` on all that is stored, and with ``--layers auto``.
``attentive``
    Attentive Layer Fusion (arXiv 2601.09322): every stored array is a token, brought to one width by a linear
    map where widths differ; learnt queries of several heads weigh the tokens; a linear classifier answers.
    AdamW with a cosine schedule; learning rate, weight decay and dropout are chosen on three folds of the
    training rows by log-loss, with one temperature as in every head.
``weighted``
    Kernel ridge regression on ``exp(-sum_l w_l D_l / 2)``, with D_l the squared distances of the standardized
    layer l. The logarithms of the weights, the penalty and a temperature minimize the leave-one-out log-loss
    of the training rows by L-BFGS, with ``decay`` times the mean square of the logarithms' deviations added.
``weighed``
    ``train --head falkon --preprocess standardise,weigh``: the kernel head with the same weights.
``equal``
    The same with one weight for all layers, which is what the weights must be better than.
``aligned``
    Kernel ridge regression on ``sum_l w_l K_l``, with w_l >= 0 by centered alignment (Cortes, Mohri &
    Rostamizadeh 2012, "Algorithms for learning kernels based on centered alignment"), and K_l Gaussian.

``weighted``, ``equal`` and ``aligned`` are dense, on all training rows. Results are appended line by line, so
that a stopped run resumes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from default_columns import BUILT_IN, Rows
from heads import DATASETS, GROUPS
from scipy.optimize import minimize, nnls
from torch import Tensor, nn

from toptune.store import FeatureStore
from toptune.train import fit_preprocessing, train
from toptune.train.numerics.calibration import fit_temperature
from toptune.train.rows.chosen_rows import ChosenRows, choose_rows
from toptune.train.rows.options import RowOptions

METHODS = ("all", "searched", "equal", "weighted", "weighed", "aligned", "attentive")
DECAY = 0.05
EPOCHS, WIDTH, HEADS = 40, 192, 8
SETTINGS = tuple(
    {"lr": lr, "weight_decay": decay, "dropout": dropout}
    for lr in (1e-3, 3e-3)
    for decay, dropout in ((1e-3, 0.0), (0.1, 0.3))
)


class Data:
    """The rows of one split: standardized layers of training and test rows, codes and folds."""

    def __init__(self, store: FeatureStore, dataset: str, model: str, seed: int) -> None:
        features = store.features(model, dataset)
        options = RowOptions(seed=seed, resplit=True, group_by=GROUPS.get(dataset))
        rows: ChosenRows = choose_rows(features.manifest, options, cv=5)
        arrays = features.arrays()
        names, dims = [each.name for each in arrays], tuple(each.dim for each in arrays)
        prepared, _ = fit_preprocessing("standardise", features.blocks(names, rows.split.train), dims)
        parts = []
        for chosen in (rows.split.train, rows.split.test):
            values = np.asarray(features.blocks(names, chosen).take(np.arange(len(chosen))))
            columns = torch.from_numpy(prepared.apply(values)).double()
            parts.append(
                [part / np.sqrt(columns.shape[1]) for part in torch.split(columns, list(dims), dim=1)]
            )
        self.train, self.test = parts
        labels = np.array([str(each) for each in features.manifest.labels])
        classes, codes = np.unique(labels[np.concatenate([rows.split.train, rows.split.test])],
                                   return_inverse=True)  # fmt: skip
        n = len(rows.split.train)
        self.codes, self.test_codes = torch.from_numpy(codes[:n]), torch.from_numpy(codes[n:])
        self.folds, self.n_classes = torch.from_numpy(rows.folds.numbers), len(classes)


def figures(scores: Tensor, codes: Tensor) -> dict[str, float]:
    """Return accuracy and log-loss of calibrated log-scores."""
    return {
        "accuracy": float((scores.argmax(1) == codes).double().mean()),
        "log_loss": float(nn.functional.cross_entropy(scores, codes)),
    }


def distances(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Return the squared distances (n_layers, n, m) of each layer."""
    return torch.stack([torch.cdist(a, b).square() for a, b in zip(left, right, strict=True)])


def weighted(data: Data, *, is_equal: bool) -> dict[str, Any]:
    """Fit kernel ridge regression with weights of layers, penalty and temperature of least left-out loss."""
    inner = distances(data.train, data.train)
    scale = inner.mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    inner = inner / scale
    outer = distances(data.test, data.train) / scale
    n_layers, n, _ = inner.shape
    targets = nn.functional.one_hot(data.codes, data.n_classes).double()
    shares = targets.mean(0)
    eye = torch.eye(n, dtype=torch.float64)

    def left_out(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logs, penalty = point[:n_layers], point[n_layers].exp()
        kernel = torch.exp(-torch.tensordot(logs.exp() / n_layers, inner, dims=1) / 2)
        inverse = torch.linalg.inv(kernel + n * penalty * eye)
        coefficients = inverse @ (targets - shares)
        scores = targets - shares - coefficients / inverse.diagonal()[:, None] + shares
        return scores, coefficients, logs

    def loss(point: Tensor) -> Tensor:
        scores, _, logs = left_out(point)
        fit = nn.functional.cross_entropy(scores * point[-1].exp(), data.codes)
        return fit + DECAY * (logs - logs.mean()).square().mean()

    def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(numbers).requires_grad_()
        point = torch.cat([free[:1].expand(n_layers), free[1:]]) if is_equal else free
        total = loss(point)
        (gradient,) = torch.autograd.grad(total, free)
        return float(total.detach()), gradient.numpy()

    # Widths are searched from a grid first, because the loss has several valleys along the width.
    starts = []
    for width in (-2.0, -1.0, 0.0, 1.0):
        for penalty in (-11.0, -8.0):
            point = np.concatenate([[width] if is_equal else np.full(n_layers, width), [penalty, 2.0]])
            starts.append((value(point)[0], point))
    best = min(starts, key=lambda pair: pair[0])[1]
    low, high = [-5.0] * (len(best) - 2), [4.0] * (len(best) - 2)
    bounds = list(zip([*low, -16.0, -2.0], [*high, 0.0, 6.0], strict=True))
    found = minimize(value, best, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 25})
    free = torch.from_numpy(found.x)
    fitted = torch.cat([free[:1].expand(n_layers), free[1:]]) if is_equal else free
    scores, coefficients, logs = left_out(fitted)
    kernel = torch.exp(-torch.tensordot(logs.exp() / n_layers, outer, dims=1) / 2)
    told = figures((kernel @ coefficients + shares) * fitted[-1].exp(), data.test_codes)
    spread = float((logs - logs.mean()).square().mean().sqrt())
    return told | {"left_out": figures(scores * fitted[-1].exp(), data.codes), "spread": spread}


def aligned(data: Data) -> dict[str, Any]:
    """Fit kernel ridge regression on Gaussian kernels of the layers, added with weights by alignment."""
    inner, outer = distances(data.train, data.train), distances(data.test, data.train)
    scale = inner.mean(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    n = inner.shape[1]
    targets = nn.functional.one_hot(data.codes, data.n_classes).double()
    shares = targets.mean(0)
    ideal = (targets - shares) @ (targets - shares).T
    best: dict[str, Any] = {}
    for width in (0.5, 1.0, 2.0, 4.0):
        kernels = torch.exp(-inner / scale * width / 2)
        centered = kernels - kernels.mean(1, keepdim=True) - kernels.mean(2, keepdim=True)
        centered = centered + kernels.mean(dim=(1, 2), keepdim=True)
        flat = centered.flatten(1)
        gram, target = (flat @ flat.T).numpy(), (flat @ ideal.flatten()).numpy()
        factor = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(gram)))
        weights, _ = nnls(factor.T, np.linalg.solve(factor, target))
        mix = torch.from_numpy(weights / weights.sum())
        kernel = torch.tensordot(mix, kernels, dims=1)
        values, vectors = torch.linalg.eigh(kernel)
        for penalty in 10.0 ** np.arange(-7, -1):
            inverse = vectors / (values + n * penalty) @ vectors.T
            coefficients = inverse @ (targets - shares)
            scores = targets - coefficients / inverse.diagonal()[:, None]
            temperature = fit_temperature(scores.numpy(), data.codes.numpy()).value
            told = figures(scores / temperature, data.codes)
            if not best or told["log_loss"] < best["left_out"]["log_loss"]:
                answer = torch.tensordot(mix, torch.exp(-outer / scale * width / 2), dims=1) @ coefficients
                best = figures((answer + shares) / temperature, data.test_codes) | {"left_out": told}
    return best


class Attentive(nn.Module):
    """Queries of several heads weigh tokens; what they gather is classified linearly."""

    def __init__(self, dims: list[int], n_classes: int, dropout: float) -> None:
        super().__init__()
        # A token of the common width needs no map; the scores of a query absorb a map of the keys.
        self.maps = nn.ModuleList(nn.Identity() if d == WIDTH else nn.Linear(d, WIDTH) for d in dims)
        self.places = nn.Parameter(torch.zeros(len(dims), WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.queries = nn.Parameter(torch.randn(HEADS, WIDTH) / WIDTH)
        self.values = nn.Parameter(torch.randn(HEADS, WIDTH, WIDTH // HEADS) / np.sqrt(WIDTH))
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(WIDTH, n_classes)

    def forward(self, layers: list[Tensor]) -> Tensor:
        tokens = torch.stack([each(part) for each, part in zip(self.maps, layers, strict=True)], dim=1)
        tokens = self.norm(tokens)
        scores = torch.einsum("ntd,hd->nht", tokens + self.places, self.queries)
        weights = self.dropout(scores.softmax(dim=2))
        gathered = torch.einsum("nht,ntd->nhd", weights, tokens)
        values = torch.einsum("nhd,hdk->nhk", gathered, self.values).flatten(1)
        answers: Tensor = self.out(self.dropout(values))
        return answers


def train_attentive(
    layers: list[Tensor], codes: Tensor, n_classes: int, setting: dict[str, float], seed: int
) -> Attentive:
    """Train with AdamW and a cosine schedule on batches of 64 rows."""
    torch.manual_seed(seed)
    model = Attentive([part.shape[1] for part in layers], n_classes, setting["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting["lr"], weight_decay=setting["weight_decay"])
    n = len(codes)
    steps = EPOCHS * -(-n // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(n), 64):
            loss = nn.functional.cross_entropy(model([part[rows] for part in layers]), codes[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


def attentive(data: Data, seed: int) -> dict[str, Any]:
    """Choose settings on three folds by log-loss, and fit all training rows with them."""
    train_rows, test_rows = ([part.float() * 10 for part in side] for side in (data.train, data.test))
    folds = data.folds % 3
    losses, temperatures = [], []
    for setting in SETTINGS:
        scores = torch.empty(len(folds), data.n_classes)
        for fold in range(3):
            kept, left = (folds != fold).nonzero()[:, 0], (folds == fold).nonzero()[:, 0]
            model = train_attentive(
                [part[kept] for part in train_rows], data.codes[kept], data.n_classes, setting, seed
            )
            with torch.no_grad():
                scores[left] = model([part[left] for part in train_rows])
        fitted = fit_temperature(scores.numpy(), data.codes.numpy())
        losses.append(fitted.log_loss)
        temperatures.append(fitted.value)
    best = int(np.argmin(losses))
    setting = SETTINGS[best]
    model = train_attentive(train_rows, data.codes, data.n_classes, setting, seed)
    with torch.no_grad():
        told = figures(model(test_rows) / temperatures[best], data.test_codes)
    return told | {"left_out": {"log_loss": min(losses)}, "setting": setting}


def measure(options: argparse.Namespace, dataset: str, model: str, seed: int, method: str) -> dict[str, Any]:
    """Fit one method on one split."""
    name = f"local-dir:{options.assets / 'weights' / model}"
    clock, processor = time.perf_counter(), time.process_time()
    if method in ("all", "searched", "weighed"):
        with tempfile.TemporaryDirectory() as folder:
            run = train(options.store, dataset=dataset, model=name, out=Path(folder) / "run", seed=seed,
                        resplit=True, group_by=GROUPS.get(dataset), keep_sums=False,
                        layers="auto" if method == "searched" else None,
                        preprocess="standardise,weigh" if method == "weighed" else None)  # fmt: skip
        left_out = run.head.left_out
        told: dict[str, Any] = {key: run.metrics[key] for key in ("accuracy", "log_loss")}
        told["left_out"] = {"accuracy": left_out.accuracy, "log_loss": left_out.log_loss} if left_out else {}
    else:
        data = Data(FeatureStore.open(options.store), dataset, name, seed)
        if method == "attentive":
            told = attentive(data, seed)
        elif method == "aligned":
            told = aligned(data)
        else:
            told = weighted(data, is_equal=method == "equal")
    spent = {
        "seconds": time.perf_counter() - clock,
        "processor_seconds": time.process_time() - processor,
    }
    return {"dataset": dataset, "model": model, "seed": seed, "method": method} | told | spent


def print_table(rows: Rows, methods: list[str]) -> None:
    """Print accuracies by data set, and the gain of each method over ``all`` with its error."""
    found = {(row["dataset"], row["model"], row["seed"], row["method"]): row for row in rows}
    keys = sorted({key[:3] for key in found if all((*key[:3], method) in found for method in methods)})
    print(f"| data set | {' | '.join(methods)} | splits |\n" + "|---" * (len(methods) + 2) + "|")
    accuracies = {key: np.array([100 * found[*key, each]["accuracy"] for each in methods]) for key in keys}
    for dataset in dict.fromkeys(key[0] for key in keys):
        mine = [accuracies[key] for key in keys if key[0] == dataset]
        cells = [
            f"{mean:.1f}" + (f" ({gain:+.2f} ± {error:.2f})" if at else "")
            for at, (mean, gain, error) in enumerate(zip(*_gains(mine), strict=True))
        ]
        print(f"| {dataset} | {' | '.join(cells)} | {len(mine)} |")
    means, gains, errors = _gains(list(accuracies.values()))
    cells = [f"{m:.2f}" + (f" ({g:+.2f} ± {e:.2f})" if at else "")
             for at, (m, g, e) in enumerate(zip(means, gains, errors, strict=True))]  # fmt: skip
    print(f"| mean | {' | '.join(cells)} | {len(accuracies)} |")
    for what in ("log_loss", "processor_seconds"):
        medians = [np.mean([found[*key, each][what] for key in keys]) for each in methods]
        print(f"| mean {what} | " + " | ".join(f"{each:.3g}" for each in medians) + " | |")


def _gains(mine: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(mine)
    gains = table - table[:, :1]
    error = gains.std(0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else gains[0] * np.nan
    return table.mean(0), gains.mean(0), error


def main() -> None:
    """Read the options, measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--datasets", default=",".join((*DATASETS, BUILT_IN)))
    parser.add_argument("--models", default="deit_tiny_patch16_224.in1k")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("layer-fusion.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["dataset"], row["model"], row["seed"], row["method"]) for row in rows}
    for seed in range(options.seeds):
        for dataset in options.datasets.split(","):
            for model in options.models.split(","):
                for method in options.methods:
                    if (dataset, model, seed, method) in done:
                        continue
                    rows.append(measure(options, dataset, model, seed, method))
                    with options.out.open("a") as stream:
                        stream.write(json.dumps(rows[-1]) + "\n")
                    print(rows[-1], flush=True)
    print_table(rows, options.methods)


if __name__ == "__main__":
    main()
