"""A few rounds of killed commands (``make soak ROUNDS=200`` runs more): nothing is lost or half done."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("TOPTUNE_SOAK_ROUNDS", "7"))


def test_killed_commands_lose_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / "killed_commands.py"), str(ROUNDS), "0", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300 + 10 * ROUNDS,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    counts = json.loads(done.stdout.splitlines()[-1])
    print(counts)
    assert counts["losses"] == []
    assert sum(counts["killed"].values()) == ROUNDS
