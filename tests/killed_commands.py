"""Kill real commands at random moments, round after round; run as a program by its test.

    python tests/killed_commands.py ROUNDS SEED FOLDER

Every round forks a process that carries out one command, and kills it by SIGKILL after a random part of the
time that the command takes. A round counts if the command had begun and had not ended. Nothing may be lost,
nothing half may pass for whole, and the same command must then come to the end that it has undisturbed.
Prints a JSON object; exits 1 if anything was lost.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from shapes import MODEL, save_shapes
from small_store import BATCH_SIZE, DIMS, UNIT_ROWS, contents, features, make_manifest, make_recipe

from toptune.cli import main as command_line
from toptune.store import CONTENT_ARRAY, FeatureStore, verify
from toptune.workflows import verify_run

DATASETS, MODELS = ("birds", "pets"), ("resnet10t.a", "resnet10t.b")
# Exports take seconds each, and only long runs have some.
OFTEN = ("move", "train", "repair", "gc", "report", "rm", "rm-layers")
SELDOM = ("export-onnx", "export-pt2")
_ALL = 50
_TRIES = 20
# Units that `repair` finds damaged.
_BAD = (("pets", "resnet10t.a", "last.cls", 1), ("birds", "resnet10t.b", CONTENT_ARRAY, 3))
OLD = b"<html>the page before</html>"

Units = dict[tuple[str, str, str, int], str]


@dataclass(frozen=True)
class Command:
    """What is killed: how its place is prepared, its arguments, and what must hold there after a kill.

    `check` gives what is wrong; its second argument says whether the command has come to its end.
    """

    prepare: Callable[[Path], object]
    arguments: Callable[[Path], list[str]]
    check: Callable[[Path, bool], list[str]]


def main() -> None:
    rounds, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dice = random.Random(seed)
    turns = OFTEN if rounds < _ALL else (*(OFTEN * 4), *SELDOM)
    made = make(folder / "made", has_exports=rounds >= _ALL)
    commands = of_stores(made) | of_runs(made)
    seconds: dict[str, float] = {}
    counts: Counter[str] = Counter()
    losses: list[str] = []
    for number in range(rounds):
        name = turns[number % len(turns)]
        command, place = commands[name], folder / name / f"{number}"
        if name not in seconds:
            whole = folder / name / "whole"
            command.prepare(whole)
            begin = time.perf_counter()
            code = os.waitstatus_to_exitcode(os.waitpid(start(command.arguments(whole)), 0)[1])
            seconds[name] = time.perf_counter() - begin
            losses += [f"{name}, undisturbed ({code}): {each}" for each in command.check(whole, True)]
        if not kill(command, place, seconds[name], dice):
            losses.append(f"{name}, round {number}: no kill hit it")
            continue
        counts[name] += 1
        said = command.check(place, False)
        os.waitpid(start(command.arguments(place)), 0)
        said += [f"finished: {each}" for each in command.check(place, True)]
        losses += [f"{name}, round {number}: {each}" for each in said]
        if not said:
            shutil.rmtree(place)
        print(f"{number + 1}: {name}", *said, file=sys.stderr, flush=True)
    print(json.dumps({"killed": dict(counts), "losses": losses}))
    raise SystemExit(1 if losses else 0)


def start(arguments: list[str]) -> int:
    """Fork a process that carries out a command; return it once it has begun."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.write(writing, b"!")
        try:
            command_line(arguments)
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        os._exit(70)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    return child


def kill(command: Command, place: Path, seconds: float, dice: random.Random) -> bool:
    """Kill the command in a new place; True once a kill has hit it while it ran."""
    for _ in range(_TRIES):
        shutil.rmtree(place, ignore_errors=True)
        command.prepare(place)
        child = start(command.arguments(place))
        time.sleep(dice.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            return True
        seconds *= 0.8  # The machine is faster than it was; a sooner kill hits.
    return False


def make(folder: Path, *, has_exports: bool) -> Path:
    """Make what the commands work on, in this process, so that all is imported before the first fork."""
    store = FeatureStore.create(folder / "store")
    for dataset in DATASETS:
        store.register(dataset, make_manifest())
        for number, model in enumerate(MODELS):
            recipe = make_recipe(weights=f"{number}b" * 32)
            cache = store.create_cache(
                model, dataset, recipe, unit_rows=UNIT_ROWS, batch_size=BATCH_SIZE, backbone={}
            )
            values: dict[str, np.ndarray] = {
                **{name: features(name) for name in DIMS},
                CONTENT_ARRAY: contents(),
            }
            for name, each in values.items():
                cache.ensure_array(
                    name, dim=each.shape[1], dtype="uint8" if each.itemsize == 1 else "float16"
                )
            for unit in range(cache.n_units):
                rows = cache.unit_slice(unit)
                cache.commit_unit(unit, {name: each[rows] for name, each in values.items()})
            cache.pack_ledgers(list(values))
    photos = save_shapes(folder / "photos", per_class=6)
    exports: list[list[object]] = [
        ["export", folder / "run", "-o", folder / f"model.{form}"] for form in ("onnx", "pt2")
    ]
    commands: list[list[object]] = [
        ["extract", photos, "--model", MODEL, "--store", folder / "photo-store"],
        [*train(folder, folder / "run")],
        ["report", folder / "run", "-o", folder / "page.html"],
        *(exports if has_exports else []),
        ["store", "copy", folder / "store", folder / "copy"],
    ]
    for words in commands:
        try:
            command_line([str(word) for word in words])
        except SystemExit as stop:
            if stop.code:
                raise
    shutil.rmtree(folder / "copy")
    return folder


def train(made: Path, out: Path) -> list[str]:
    return ["train", "--store", str(made / "photo-store"), "--head", "ridge", "--cv", "2", "--out", str(out)]


def units(*roots: Path) -> Units:
    """Give the digest that the ledger has for each unit that is done in any of some stores."""
    return {
        (cache.dataset, cache.model, name, unit): entry.sha256
        for root in roots
        if (root / "toptune.json").exists()
        for cache in FeatureStore.open(root).caches()
        for name in (*DIMS, CONTENT_ARRAY)
        for unit, entry in cache.entries(name).items()
    }


def damage(root: Path) -> list[str]:
    """Give what is damaged of a store; what the ledger names is compared byte for byte."""
    report = verify(FeatureStore.open(root), deep=True)
    return [f"{path}: {reason}" for path, reason in (*report.damaged, *report.unreadable)]


def lost(before: Units, after: Units) -> list[str]:
    """Give what was done before and is not now, or is otherwise."""
    return [f"{each} is lost" for each, digest in before.items() if after.get(each) != digest]


def of_stores(made: Path) -> dict[str, Command]:
    before = units(made / "store")

    def prepare(place: Path) -> Path:
        return Path(shutil.copytree(made / "store", place / "store"))

    def moved(place: Path, is_done: bool) -> list[str]:
        stores = [each for each in (place / "store", place / "other") if (each / "toptune.json").exists()]
        said = [each for root in stores for each in damage(root)]
        if is_done and units(place / "store"):
            said.append("the source has features still")
        return said + lost(before, units(place / "other") if is_done else units(*stores))

    def removed(place: Path, is_done: bool) -> list[str]:
        report = verify(FeatureStore.open(place / "store"), deep=True)
        after = units(place / "store")
        said = [str(report)] if report.exit_code else []  # A cache that is listed has all of its units.
        if is_done and any(each[0] == "pets" for each in after):
            said.append("features of the data set are still there")
        return said + lost({each: before[each] for each in before if each[0] != "pets"}, after)

    def layer_removed(place: Path, is_done: bool) -> list[str]:
        gone = {each for each in before if each[:3] == ("pets", "resnet10t.a", "last.cls")}
        after = units(place / "store")
        said = ["the layer is still there"] if is_done and gone & after.keys() else []
        return (
            said + damage(place / "store") + lost({k: v for k, v in before.items() if k not in gone}, after)
        )

    def litter(place: Path) -> None:
        """Leave what dead writers leave: files that nothing names, and temporary ones."""
        root = prepare(place)
        cache = FeatureStore.open(root).cache("resnet10t.b", "pets")
        cache.ledger("last.cls").unpack()
        cache.entry_path("last.cls", 2).unlink()
        for number in range(10):
            (cache.path / f".tmp-{number:032x}").write_bytes(b"half")

    def collected(place: Path, is_done: bool) -> list[str]:
        root = place / "store"
        kept = {k: v for k, v in before.items() if k[:2] != ("birds", "resnet10t.a")}
        kept = {k: v for k, v in kept.items() if k != ("pets", "resnet10t.b", "last.cls", 2)}
        left = verify(FeatureStore.open(root)).leftovers if is_done else ()
        return [*damage(root), *lost(kept, units(root)), *(f"{each} is left over" for each in left)]

    def harm(place: Path) -> None:
        store = FeatureStore.open(prepare(place))
        for dataset, model, name, unit in _BAD:
            path = store.cache(model, dataset).shard_path(name, unit)
            path.write_bytes(path.read_bytes()[:-9] + b"\xff" * 9)
        (store.root / "toptune.json").write_bytes(b"{")

    def repaired(place: Path, is_done: bool) -> list[str]:
        if not is_done and (place / "store/toptune.json").read_bytes() == b"{":
            return []  # Killed before it began to write, which is a store that nobody opens.
        after = units(place / "store")
        said = lost({k: v for k, v in before.items() if k not in _BAD}, after)
        if is_done:
            said += damage(place / "store") + [f"{each} is called done" for each in _BAD if each in after]
        return said

    def on_store(*words: str) -> Callable[[Path], list[str]]:
        return lambda place: ["store", *words, "--store", str(place / "store")]

    layer = ("--dataset", "pets", "--model", "resnet10t.a", "--layers", "last.cls")
    move = ["store", "copy", "--move"]
    return {
        "move": Command(prepare, lambda place: [*move, str(place / "store"), str(place / "other")], moved),
        "repair": Command(harm, on_store("repair"), repaired),
        "rm": Command(prepare, on_store("rm", "-y", "--dataset", "pets"), removed),
        "rm-layers": Command(prepare, on_store("rm", "-y", *layer), layer_removed),
        "gc": Command(litter, on_store("gc", "-y", "--grace", "0s", "--keep", "3"), collected),
    }


def of_runs(made: Path) -> dict[str, Command]:
    def trained(place: Path, is_done: bool) -> list[str]:
        run = place / "run"
        if not run.exists():
            return ["there is no run"] if is_done else []
        found = verify_run(run)
        return damage(made / "photo-store") + ([str(found)] if found.exit_code else [])

    def written(name: str) -> Callable[[Path, bool], list[str]]:
        def check(place: Path, is_done: bool) -> list[str]:
            path, whole = place / name, (made / name).read_bytes()
            found = path.read_bytes() if path.exists() else None
            if found is None or found == OLD:
                return [f"{name} was not written"] if is_done else []
            is_whole = len(found) == len(whole)
            if name.endswith("pt2"):
                is_whole = zipfile.ZipFile(path).testzip() is None
            elif name.endswith("onnx"):
                onnx.checker.check_model(path)
            return [] if is_whole else [f"{name} is not what is written undisturbed"]

        return check

    def before(place: Path) -> None:
        place.mkdir(parents=True)
        (place / "page.html").write_bytes(OLD)

    def export(form: str) -> Command:
        words = ["export", str(made / "run"), "-o"]
        name = f"model.{form}"
        return Command(
            lambda place: place.mkdir(parents=True), lambda at: [*words, str(at / name)], written(name)
        )

    page = ["report", str(made / "run"), "--overwrite", "-o"]
    return {
        "train": Command(
            lambda place: place.mkdir(parents=True), lambda place: train(made, place / "run"), trained
        ),
        "export-onnx": export("onnx"),
        "export-pt2": export("pt2"),
        "report": Command(before, lambda place: [*page, str(place / "page.html")], written("page.html")),
    }


if __name__ == "__main__":
    main()
