"""Kill real writers at random instants, round after round; run as a program by the soak and its test.

    python tests/soak.py ROUNDS SEED FOLDER

Every round forks a writer that goes on with the store and dies: by SIGKILL after a random time, by SIGKILL
at a random system step (also between fsync and link), or refused by a file size limit. The store must have
lost nothing that was done, must not be damaged, and, finished, must equal an undisturbed one byte for byte.
Prints a JSON object; exits 1 if anything was lost.
"""

import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from small_store import DIMS, open_empty, shard_bytes, write_all

from toptune.store import CONTENT_ARRAY, FeatureCache, FeatureStore, StoreError, verify

NAMES = [*DIMS, CONTENT_ARRAY]
KILL_STEPS = ("fsync", "link", "rename", "unlink", "write", "mkdir")


def main() -> None:
    rounds, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dice = random.Random(seed)
    undisturbed = {
        form: shard_bytes(write_all(folder / f"undisturbed-{form}", format=form)) for form in ("zarr", "hdf5")
    }
    counts: Counter[str] = Counter()
    losses: list[str] = []
    root, form = folder / "store-0", "zarr"
    for number in range(rounds):
        done = done_units(root)
        how = dice.choice(["time", "time", "step", "step", "limit"])
        counts[outcome(root, form, how, dice)] += 1
        if (root / "toptune.json").exists():
            report = verify(FeatureStore.open(root), deep=True)
            losses += [f"round {number}: {path}: {reason}" for path, reason in report.damaged]
            losses += [f"round {number}: {unit} was done" for unit in sorted(done - done_units(root))]
        if number % 5 == 4 or number == rounds - 1:
            cache = write_all(root, format=form)
            cache.pack_ledgers(NAMES)
            found = {name: data for name, data in shard_bytes(cache).items() if ".tmp-" not in name}
            report = verify(FeatureStore.open(root), deep=True)
            if found != undisturbed[form] or report.exit_code:
                losses.append(f"round {number}: the finished store differs: {report}")
            counts["finished and compared"] += 1
            root, form = folder / f"store-{number + 1}", dice.choice(["zarr", "hdf5"])
    print(json.dumps({"rounds": rounds, **dict(sorted(counts.items())), "losses": losses}))
    raise SystemExit(1 if losses else 0)


def done_units(root: Path) -> set[str]:
    if not (root / "toptune.json").exists():
        return set()
    return {
        f"{name}/{unit}"
        for cache in FeatureStore.open(root).caches()
        for name in NAMES
        for unit in cache.entries(name)
    }


def outcome(root: Path, form: str, how: str, dice: random.Random) -> str:
    """Run one writer to its end and say what that was."""
    seed, wait = dice.random(), dice.uniform(0, 0.04)
    child = os.fork()
    if child == 0:
        os._exit(write(root, form, how, random.Random(seed)))
    if how == "time":
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"killed at a random {'instant' if how == 'time' else 'system step'}"
    return {0: "finished before", 3: "refused by a file size limit"}[os.WEXITSTATUS(status)]


def write(root: Path, form: str, how: str, dice: random.Random) -> int:
    try:
        if how == "step":
            kill_at(
                dice.choice(KILL_STEPS),
                dice.randint(1, 12 if dice.random() < 0.7 else 60),
                after=dice.random() < 0.5,
            )
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (dice.randint(50, 1500), resource.RLIM_INFINITY))
        cache: FeatureCache = write_all(root, format=form)
        cache.pack_ledgers(NAMES)
    except StoreError:
        return 3
    return 0


def kill_at(step: str, number: int, *, after: bool) -> None:
    """Die before or right after the n-th call of a system function: also between fsync and link."""
    plain, calls = getattr(os, step), [0]

    def deadly(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = plain(*arguments, **options)
        if calls[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(os, step, deadly)


if __name__ == "__main__":
    open_empty(Path(sys.argv[3]) / "warm")  # loads zarr before the first fork
    main()
