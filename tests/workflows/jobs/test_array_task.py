"""Shards from the environment of job arrays: what is taken, and what is refused."""

import re

import pytest

from toptune.store import InputError
from toptune.workflows import choose_shard


def slurm(index: object, first: object, last: object, count: object, step: object = 1) -> dict[str, str]:
    names = ("ID", "MIN", "MAX", "COUNT", "STEP")
    values = (index, first, last, count, step)
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in zip(names, values, strict=True)}


def sge(index: object, first: object, last: object, step: object) -> dict[str, str]:
    return {
        "SGE_TASK_ID": str(index),
        "SGE_TASK_FIRST": str(first),
        "SGE_TASK_LAST": str(last),
        "SGE_TASK_STEPSIZE": str(step),
    }


def lsf(index: int, last: int, **more: str) -> dict[str, str]:
    return {"LSB_JOBINDEX": str(index), "LSB_JOBINDEX_END": str(last), **more}


@pytest.mark.parametrize(
    ("given", "environment", "shard"),
    [
        (None, {}, None),
        ("2/5", {}, (2, 5)),
        ("0/1", slurm(3, 0, 9, 10), (0, 1)),
        (None, slurm(0, 0, 9, 10), (0, 10)),
        ("auto", slurm(9, 0, 9, 10), (9, 10)),
        ("auto", slurm(7, 1, 10, 4, 3), (2, 4)),
        ("auto", {key: text for key, text in slurm(4, 0, 9, 10).items() if "STEP" not in key}, (4, 10)),
        ("auto/10", slurm(7, 3, 7, 2), (7, 10)),
        ("auto/20", {"PBS_ARRAY_INDEX": "0"}, (0, 20)),
        ("auto/20", {"PBS_ARRAY_INDEX": "20"}, (0, 20)),
        ("auto/20", {"PBS_ARRAYID": "7"}, (7, 20)),
        (None, lsf(20, 20), (19, 20)),
        (None, lsf(7, 20, LSB_JOBINDEX_STEP="3"), (2, 7)),
        (None, lsf(0, 0), None),
        (None, sge(1, 1, 10, 3), (0, 4)),
        ("auto", sge(10, 1, 10, 3), (3, 4)),
        (None, sge("undefined", "undefined", "undefined", "undefined"), None),
        (None, sge(3, 1, 3, 1) | slurm(0, 0, 1, 2), (0, 2)),
    ],
)
def test_shards_that_are_taken(
    given: str | None, environment: dict[str, str], shard: tuple[int, int] | None
) -> None:
    found, why = choose_shard(given, environment)
    assert found == shard
    said = shard is not None and (given is None or given.startswith("auto"))
    assert bool(why) == said
    if said and shard is not None:
        assert why.startswith(f"shard {shard[0]}/{shard[1]}: ")
        assert ("--shard 0/1" in why) == (given is None)


def test_every_task_of_an_array_takes_another_shard() -> None:
    for numbers in (range(6), range(1, 7)):
        shards = {choose_shard("auto/6", {"PBS_ARRAY_INDEX": str(number)})[0] for number in numbers}
        assert shards == {(i, 6) for i in range(6)}
    taken = {choose_shard(None, slurm(index, 5, 23, 7, 3))[0] for index in range(5, 24, 3)}
    assert taken == {(i, 7) for i in range(7)}


@pytest.mark.parametrize(
    ("given", "environment", "said"),
    [
        ("auto", {}, "SLURM_ARRAY_TASK_ID, PBS_ARRAY_INDEX"),
        ("auto", lsf(0, 0), "no task of a job array"),
        ("5/5", {}, "0 <= i < n"),
        ("x", {}, "'x'"),
        ("auto/0", {"PBS_ARRAY_INDEX": "1"}, "auto/20"),
        ("auto/x", {"PBS_ARRAY_INDEX": "1"}, "auto/20"),
        ("auto/20", {"PBS_ARRAY_INDEX": "21"}, "0 to 19 or 1 to 20"),
        ("auto/20", {"PBS_ARRAY_INDEX": "-1"}, "no number"),
        ("auto", {"PBS_ARRAY_INDEX": "1"}, "--shard auto/N"),
        (None, {"PBS_ARRAY_INDEX": "1"}, "--shard 0/1"),
        (None, slurm(3, 1, 7, 3), "cannot be told"),
        (None, slurm(8, 0, 7, 8), "cannot be told"),
        (None, slurm(2, 1, 7, 3, 3), "cannot be told"),
        (None, slurm(1, 0, 3, 4, 0), "cannot be told"),
        (None, slurm("one", 0, 3, 4), "SLURM_ARRAY_TASK_ID is 'one'"),
        (None, slurm(1, "?", 3, 4), "SLURM_ARRAY_TASK_MIN is '?'"),
        (None, {"SLURM_ARRAY_TASK_ID": "3"}, "does not say how many"),
        (None, lsf(6, 20, LSB_JOBINDEX_STEP="3"), "cannot be told"),
    ],
)
def test_what_is_refused(given: str | None, environment: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        choose_shard(given, environment)
