"""Pickles of CIFAR are read, and nothing else in a pickle is ever carried out."""

import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from containers import make_cifar, planes

from toptune.extract import open_source
from toptune.extract.sources.arrays.cifar_pickles import read_cifar_pickle
from toptune.store import InputError


def python_2_batch(rows: np.ndarray) -> bytes:
    """A batch as the authors' Python 2 wrote it: protocol 2, the array's values as one text of bytes."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    n = len(rows)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85" + text(b"b")
        + b"\x87Rq\x08(K\x01K" + bytes([n]) + b"M\x00\x0c\x86cnumpy\ndtype\nq\x09" + text(b"u1")
        + b"K\x00K\x01\x87Rq\x0a(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", rows.size) + rows.tobytes() + b"tb"
    )  # fmt: skip
    labels = b"]q\x05(" + b"".join(b"K" + bytes([row % 2]) for row in range(n)) + b"e"
    return (
        b"\x80\x02}q\x01(" + text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03"
        + text(b"labels") + b"q\x04" + labels + text(b"data") + array + b"u."
    )  # fmt: skip


def test_a_batch_of_python_2_is_read(tmp_path: Path) -> None:
    rows = planes(slice(0, 3))
    (tmp_path / "data_batch_1").write_bytes(python_2_batch(rows))
    batch = read_cifar_pickle(tmp_path / "data_batch_1")
    assert batch["batch_label"] == "training batch 1 of 5"
    assert batch["labels"] == [0, 1, 0]
    assert np.array_equal(batch["data"], rows)
    assert not batch["data"].flags.writeable
    assert open_source(tmp_path).manifest().labels == ["0", "1", "0"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_thousands_of_file_names_are_read(tmp_path: Path, protocol: int) -> None:
    """Python 3 writes bytes of protocol 2 as calls of an encoder, with a tuple of arguments for each."""
    rows, names = np.zeros((70, 3072), np.uint8), [b"%d.png" % (row // 2) for row in range(3000)]
    batch = {
        b"data": rows,
        b"filenames": names,
        b"more": [rows[:3], np.arange(9, dtype=">i4")],
        b"none": None,
    }
    (tmp_path / "x").write_bytes(pickle.dumps(batch, protocol))
    found = read_cifar_pickle(tmp_path / "x")
    assert np.array_equal(found["data"], rows)
    assert found["filenames"] == [name.decode() for name in names]


ATTACKS = {
    "os.system by GLOBAL": b"\x80\x02cos\nsystem\n(U\x09touch pwnt\x85R.",
    "builtins.eval by STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"\x80\x02(cnumpy\nndarray\no.",
    "NEWOBJ": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"Pid\n.",
    "a call of what is no function": b"\x80\x02K\x01K\x02\x85R.",
    "numpy's own loader": b"\x80\x02cnumpy\nload\nU\x04evil\x85R.",
    "another module's ndarray": b"\x80\x02cnumpy.evil\nndarray\n.",
    "the state of a list": b"\x80\x02]}b.",
    "ndarray itself called": b"\x80\x02cnumpy\nndarray\nK\x01\x85R.",
    "a dotted name in numpy": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
    "a dotted name beside an array's": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\n.",
    "Python 2's getattr": b"\x80\x02c__builtin__\ngetattr\n.",
    "copyreg": b"\x80\x02ccopyreg\n_reconstructor\n.",
    "copy_reg": b"\x80\x02ccopy_reg\n_reconstructor\n.",
    "another codec": b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.",
    "decode": b"\x80\x02c_codecs\ndecode\n.",
    "a call nested in a call": b"\x80\x02c_codecs\nencode\ncos\nsystem\n(U\x02lsR\x85R.",
    "an array of objects": b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.",
    "a structured array": b"\x80\x02cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R.",
    "the state of a class": b"\x80\x02cnumpy\ndtype\nN}U\x01xK\x01s\x86b.",
    "the state of ndarray": b"\x80\x02cnumpy\nndarray\nN}U\x01xK\x01s\x86b.",
    "the state of a function": b"\x80\x02c_codecs\nencode\nN}U\x01xK\x01s\x86b.",
    "an array larger than its bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J\0\0\0\x40\x85cnumpy\ndtype\nU\x02u1\x85R"
        b"\x89U\x01atb."
    ),
    "an array whose values are a list": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01K\x01\x85cnumpy\ndtype\nU\x02u1\x85R\x89]tb."
    ),
    "DUP": b"\x80\x02]2.",
    "FROZENSET": b"\x80\x04(\x91.",
    "a place in the memo for which there is no memory": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a text longer than the file": b"\x80\x04\x8e\0\0\0\0\0\0\0\x10ab.",
    "tuples too deep to hash": b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns.",
    "tuples too deep between calls": (
        b"\x80\x02}N" + b"\x85cnumpy.core.multiarray\n_reconstruct\n)R\x86" * 200 + b"Ns."
    ),
    "a tuple used twice behind another instruction": b"\x80\x02)N\x86Nbq\x00h\x00\x86.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_else_a_pickle_asks_for_is_refused_by_name(tmp_path: Path, attack: str) -> None:
    file = tmp_path / "data_batch_1"
    file.write_bytes(ATTACKS[attack])
    with pytest.raises(InputError, match="a pickle can run programs, so only") as caught:
        open_source(tmp_path)
    if attack.isupper():
        assert f"the instruction {attack};" in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def test_a_real_payload_does_nothing(tmp_path: Path) -> None:
    folder = make_cifar(tmp_path)
    code = (
        "import pickle, os, sys\n"
        "class Evil:\n    def __reduce__(self): return os.system, ('touch ' + sys.argv[2],)\n"
        "batch = {b'data': Evil(), b'labels': [0]}\n"
        "open(sys.argv[1], 'wb').write(pickle.dumps(batch, 2))"
    )
    pwned = tmp_path / "pwned"
    subprocess.run([sys.executable, "-c", code, folder / "test_batch", pwned], check=True)
    with pytest.raises(InputError, match=r"posix\.system"):
        open_source(folder)
    assert not pwned.exists()


def test_a_batch_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    data = python_2_batch(planes(slice(0, 2)))
    file = tmp_path / "data_batch_1"
    for length in (0, 1, 2, 5, 40, 90, 200, 260, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(InputError):
            open_source(tmp_path)


def test_damaged_batches_raise_nothing_else(tmp_path: Path) -> None:
    """Flip every byte of the instructions: refused, or read as something; never another error."""
    data = python_2_batch(planes(slice(0, 1)))
    file = tmp_path / "data_batch_1"
    outcomes = set()
    for place in [*range(300), len(data) - 2, len(data) - 1]:
        for change in (0x01, 0x80, 0xFF):
            torn = bytearray(data)
            torn[place] ^= change
            file.write_bytes(torn)
            try:
                open_source(tmp_path).manifest()
                outcomes.add("read")
            except InputError:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}U\x04data]q\x00h\x00as.",  # a list that holds itself
        b"\x80\x02})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01s.",  # a key of 2^60 leaves
        b"\x80\x02}U\x04data)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"s.",  # a value of them
        b"\x80\x02}U\x04datacnumpy\ndtype\n)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"\x85Rs.",
    ],
)
def test_what_nests_itself_takes_no_time(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "data_batch_1").write_bytes(data)
    with pytest.raises(InputError):
        open_source(tmp_path)


def test_a_lone_pickle_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(ATTACKS["NEWOBJ"])
    with pytest.raises(InputError, match="is a Python pickle, which is a program"):
        open_source(tmp_path / "x.pkl")
    folder = make_cifar(tmp_path)
    with pytest.raises(InputError, match="one batch of CIFAR; give its folder"):
        open_source(folder / "test_batch")
