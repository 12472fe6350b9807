"""A dozen rounds of the soak (``make soak ROUNDS=200`` runs more): killed writers lose nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("TOPTUNE_SOAK_ROUNDS", "12"))


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(TESTS / "soak.py"), str(ROUNDS), "0", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=60 + 5 * ROUNDS,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    counts = json.loads(done.stdout)
    assert counts["losses"] == []
    assert counts["rounds"] == ROUNDS
    assert sum(count for what, count in counts.items() if what.startswith("killed")) >= ROUNDS // 4
