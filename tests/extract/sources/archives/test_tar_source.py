"""WebDataset shards: the formats of tar, samples, labels, splits, patterns, damage."""

import gzip
import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from containers import make_tars, png, write_tar

from toptune.extract import open_source
from toptune.extract.images.open_files import MAX_OPEN
from toptune.extract.sources.archives.tar import open_shards
from toptune.extract.sources.archives.tar_samples import tar_members
from toptune.store import InputError, UnreadableImageError

PNG = png(0)
LONG = "a-very-long-folder-name-" * 6 + "/" + "n" * 120


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_is_indexed_as_tarfile_does(tmp_path: Path, form: int) -> None:
    names = ["x.png", "ü/名前.png", "d/" * 40 + "y.jpg", "empty.cls"]
    if form != tarfile.USTAR_FORMAT:
        names += [f"{LONG}.png", "k" * 300 + ".png"]
    file = write_tar(
        tmp_path / "a.tar", {name: os.urandom(i * 311) for i, name in enumerate(names)}, form=form
    )
    with tarfile.open(file) as archive:
        wanted = [(each.name, each.offset_data, each.size) for each in archive if each.isreg()]
    assert [(each.name, each.offset, each.bytes) for each in tar_members(file)] == wanted
    assert [each[0] for each in wanted] == names


def test_what_tar_itself_writes_is_read(tmp_path: Path) -> None:
    import subprocess

    folder = tmp_path / "in"
    for name in ("b.png", "a.png", f"{'long' * 20}.png"):
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        (folder / "sub" / name).write_bytes(PNG)
    for form in ("gnu", "pax", "ustar", "oldgnu"):
        file = tmp_path / f"{form}.tar"
        subprocess.run(["tar", f"--format={form}", "-cf", file, "-C", folder, "."], check=True)
        source = open_source(file)
        assert sorted(source.manifest().ids) == [
            f"{form}/sub/a", f"{form}/sub/b", f"{form}/sub/{'long' * 20}",
        ]  # fmt: skip
        assert [source.read(row) for row in range(3)] == [PNG] * 3


def test_sizes_in_base_256_and_in_pax_records(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("x.png")
        member.size = 9 * 2**30
        file = tmp_path / "huge.tar"
        with file.open("wb") as out:
            out.write(member.tobuf(form))
            out.seek(member.size, os.SEEK_CUR)  # a hole: takes no disk
            out.write(bytes(1024))
        (found,) = tar_members(file)
        assert found.bytes == 9 * 2**30
        with pytest.raises(UnreadableImageError, match="larger than"):
            open_source(file).read(0)


def test_global_pax_records_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "abc"}
    ) as out:
        member = tarfile.TarInfo("x.png")
        member.size = len(PNG)
        out.addfile(member, io.BytesIO(PNG))
    assert open_source(tmp_path / "a.tar").read(0) == PNG


def test_members_become_samples_by_the_first_dot(tmp_path: Path) -> None:
    members = {
        "__key__.json__": b"x", "./d/a.PNG": PNG, "d/a.cls": b" 7\n", "d/a.mask.png": b"mask",
        "b.v2.jpg": PNG, "b.json": b'{"label": "bee"}', "d/.hidden.png": b"x", "c.json": b"{}", "e.png": PNG,
        "noext": b"x",
    }  # fmt: skip
    source = open_source(write_tar(tmp_path / "val_0.tar", members))
    manifest = source.manifest()
    assert manifest.ids == ["val_0/d/a", "val_0/b", "val_0/e"]
    assert manifest.labels == ["7", "bee", None]
    assert manifest.splits == ["val"] * 3
    assert [source.read(row) for row in range(3)] == [PNG] * 3


def test_order_is_that_of_shard_names_and_members(tmp_path: Path) -> None:
    for shard in ("s-1", "s-0"):
        write_tar(tmp_path / f"{shard}.tar", {"z.png": PNG, "a.png": PNG})
    assert open_source(tmp_path).manifest().ids == ["s-0/z", "s-0/a", "s-1/z", "s-1/a"]


@pytest.mark.parametrize(
    ("shard", "split"),
    [("train-000", "train"), ("TRAINING_1", "train"), ("validation-1", "val"), ("test", "test"),
     ("tests", None), ("trainer-0", None), ("imagenet-train-0", None), ("val1", "val")],
)  # fmt: skip
def test_splits_are_told_by_the_start_of_the_name(tmp_path: Path, shard: str, split: str | None) -> None:
    write_tar(tmp_path / f"{shard}.tar", {"a.png": PNG})
    assert open_source(tmp_path).manifest().splits == [split]


def test_shards_in_folders_of_splits(tmp_path: Path) -> None:
    write_tar(tmp_path / "w/train/0.tar", {"a.png": PNG})
    write_tar(tmp_path / "w/val/0.tar", {"a.png": PNG})
    (tmp_path / "w/notes").mkdir()
    source = open_source(tmp_path / "w")
    assert source.name == "w"
    assert source.manifest().ids == ["train/0/a", "val/0/a"]
    assert source.manifest().splits == ["train", "val"]


def test_short_texts_are_labels_and_captions_are_not(tmp_path: Path) -> None:
    members = {"a.png": PNG, "a.txt": b"ant\n", "b.png": PNG, "b.txt": "bée".encode()}
    assert open_source(write_tar(tmp_path / "a.tar", members)).manifest().labels == ["ant", "bée"]
    write_tar(tmp_path / "b.tar", members | {"b.txt": b"A photograph of a bee. " * 9})
    source = open_shards([tmp_path / "b.tar"])
    assert source.manifest().labels == [None, None]
    (remark,) = source.remarks
    assert remark.sentence == "left out: 2 texts in members .txt, too long for labels"


def test_json_labels_may_be_several(tmp_path: Path) -> None:
    content: tuple[dict[str, object], ...] = (
        {"labels": ["ant", "bee"]},
        {"labels": ["ant"]},
        {"label": 3},
        {"labels": "bee; ant"},
        {},
    )
    members: dict[str, bytes] = {}
    for number, each in enumerate(content):
        members |= {f"{number}.png": PNG, f"{number}.json": json.dumps(each).encode()}
    manifest = open_source(write_tar(tmp_path / "a.tar", members)).manifest()
    assert manifest.labels == [None, "ant", "3", None, None]
    assert manifest.column("labels") == ["ant|bee", "ant", "3", "bee|ant", None]


@pytest.mark.parametrize(
    "pattern", ["s-{000..002}.tar", "s-*.tar", "s-{000,001,002}.tar", "{s,s}-00[0-2].tar"]
)
def test_patterns_name_shards(tmp_path: Path, pattern: str) -> None:
    for number in range(3):
        write_tar(tmp_path / "pets" / f"s-{number:03}.tar", {"a.png": PNG})
    source = open_source(str(tmp_path / "pets" / pattern))
    assert source.name == "pets"
    assert source.manifest().ids == ["s-000/a", "s-001/a", "s-002/a"]
    assert source.manifest().ids == open_source(tmp_path / "pets").manifest().ids


def test_patterns_that_name_nothing_or_too_little(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", {"a.png": PNG})
    with pytest.raises(InputError, match=r"2 of 3 shards .* missing: .*s-1\.tar"):
        open_source(str(tmp_path / "s-{0..2}.tar"))
    with pytest.raises(InputError, match="no file matches"):
        open_source(str(tmp_path / "t-*.tar"))
    with pytest.raises(InputError, match="neither a range"):
        open_source(str(tmp_path / "s-{0-2}.tar"))
    with pytest.raises(InputError, match="more than 1000000 shards"):
        open_source(str(tmp_path / "s-{0..9999999}.tar"))


def test_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a.tar", {"a.png": PNG, "b.png": PNG}).read_bytes()
    torn = tmp_path / "torn.tar"
    last_block = 2 * (512 + -(-len(PNG) // 512) * 512)
    for length in (0, 100, 512, 700, last_block // 2, last_block // 2 + 40, last_block - 1, last_block):
        torn.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"torn\.tar is cut off after \d+ bytes.*copy or write it again"):
            open_source(torn)


def test_damage_joined_archives_and_strange_members_are_refused(tmp_path: Path) -> None:
    whole = bytearray(write_tar(tmp_path / "a.tar", {"a.png": PNG, "b.png": PNG}).read_bytes())
    (tmp_path / "joined.tar").write_bytes(whole + whole)
    with pytest.raises(InputError, match=r"goes on after the mark.*--concatenate"):
        open_source(tmp_path / "joined.tar")
    whole[10] ^= 1
    (tmp_path / "flipped.tar").write_bytes(whole)
    with pytest.raises(InputError, match=r"damaged.*byte 0"):
        open_source(tmp_path / "flipped.tar")
    (tmp_path / "text.tar").write_text("no archive " * 100)
    with pytest.raises(InputError, match="no tar archive"):
        open_source(tmp_path / "text.tar")
    for kind, what in ((tarfile.SYMTYPE, "is a link.*--dereference"), (tarfile.LNKTYPE, "is a link")):
        with tarfile.open(tmp_path / "link.tar", "w") as out:
            member = tarfile.TarInfo("a.png")
            member.type, member.linkname = kind, "elsewhere.png"
            out.addfile(member)
        with pytest.raises(InputError, match=what):
            open_source(tmp_path / "link.tar")


def header(member: tarfile.TarInfo, size: int) -> bytes:
    """A GNU header with any size, also one below 0, which `tarfile` writes to base 256."""
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(tarfile.REGTYPE, -1024), (tarfile.XHDTYPE, -512), (tarfile.GNUTYPE_LONGNAME, -1),
     (tarfile.XHDTYPE, 2**40), (tarfile.XGLTYPE, 2**21), (tarfile.GNUTYPE_LONGLINK, 2**40)],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_sizes_that_lead_back_or_fill_the_memory_are_damage(tmp_path: Path, kind: bytes, size: int) -> None:
    first, member = tarfile.TarInfo("a.png"), tarfile.TarInfo("b.png")
    member.type = kind
    for before in (b"", first.tobuf()):
        (tmp_path / "a.tar").write_bytes(before + header(member, size) + bytes(4096))
        with pytest.raises(InputError, match=rf"damaged.*byte {len(before)} .*{size}"):
            open_source(tmp_path / "a.tar")


def test_sparse_members_are_refused_by_name(tmp_path: Path) -> None:
    import subprocess

    with (tmp_path / "hole.png").open("wb") as out:
        out.truncate(2**22)
        out.write(b"x")
    for form in (
        ["--format=gnu"],
        *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ):
        file = tmp_path / "a.tar"
        subprocess.run(["tar", *form, "--sparse", "-cf", file, "-C", tmp_path, "hole.png"], check=True)
        with pytest.raises(InputError, match=r"hole\.png' is stored sparse"):
            open_source(file)


def test_names_that_are_not_utf8_absolute_or_lead_up_stay_names(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    members = {"/etc/a.png": PNG, "../b.png": PNG, "caf\udce9.png": PNG}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(file, "w", format=form, errors="surrogateescape") as out:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
        assert [each.name for each in tar_members(file)] == list(members)
        assert open_source(file).manifest().ids == ["a//etc/a", "a/../b", "a/caf\\xe9"]


@pytest.mark.timeout(60)
def test_flipped_bytes_raise_nothing_but_input_errors(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        whole = write_tar(file, {f"{LONG}.png": b"x", "ü.png": b"y"}, form=form).read_bytes()
        outcomes = set()
        for place in range(0, len(whole), 7):
            torn = bytearray(whole)
            torn[place] ^= 0x81
            file.write_bytes(torn)
            try:
                outcomes.add(len(list(tar_members(file))))
            except InputError:
                outcomes.add(-1)
        assert outcomes == {-1, 2}


def test_a_long_chain_of_long_names_is_damage(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type = tarfile.GNUTYPE_LONGNAME
    (tmp_path / "a.tar").write_bytes(header(member, 0) * 5000 + bytes(1024))
    with pytest.raises(InputError, match="damaged"):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": PNG, "a.jpg": PNG}, "have one key"),
        ({"a.v1.png": PNG, "a.v2.png": PNG}, "have one key"),
        ({"a.png": PNG, "./a.png": PNG}, "holds './a.png' twice"),
        ({"a.txt": b"x", "b.cr3": b"x"}, "hold no images"),
        ({"a.png": PNG, "a.json": b"{"}, "no JSON"),
        ({"a.png": PNG, "a.json": b'{"label": {"x": 1}}'}, "label {'x': 1}"),
        ({"a.png": PNG, "a.json": b'{"label": "a", "label": "b"}'}, "field 'label' twice"),
        ({"a.png": PNG, "a.json": b'{"labels": ["x|y"]}'}, r"'x\|y'"),
        ({"a.png": PNG, "a.cls": b"\xff"}, "not text in UTF-8"),
        ({"a.png": PNG, "a.cls": bytes(5000)}, "5000 bytes long"),
    ],
)
def test_samples_that_cannot_be_used_are_named(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_compressed_shards_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    packed = gzip.compress(write_tar(tmp_path / "b.tar", {"a.png": PNG}).read_bytes())
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(InputError, match=r"compressed with gzip.*gunzip"):
        open_source(tmp_path / name)


def test_a_compressed_shard_among_others_is_not_passed_over(tmp_path: Path) -> None:
    packed = gzip.compress(write_tar(tmp_path / "s" / "0.tar", {"a.png": PNG}).read_bytes())
    (tmp_path / "s" / "1.tar.gz").write_bytes(packed)
    with pytest.raises(InputError, match=r"1\.tar\.gz is compressed"):
        open_source(tmp_path / "s")


def test_a_shard_that_changes_while_it_is_read_stops_the_run(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", {"a.png": PNG})
    source = open_source(file)
    write_tar(file, {"b.png": PNG, "a.png": PNG})
    with pytest.raises(InputError, match="changed while it was read") as caught:
        source.read(0)
    assert not isinstance(caught.value, UnreadableImageError)
    file.unlink()
    with pytest.raises(InputError, match="cannot be opened now"):
        source.read(0)


def n_open() -> int:
    """Files that this process has open, where the system tells."""
    folder = Path("/proc/self/fd")
    return len([*folder.iterdir()]) if folder.is_dir() else 0


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    n = MAX_OPEN + 20
    for number in range(n):
        write_tar(tmp_path / "s" / f"{number:04}.tar", {"a.png": PNG + bytes([number])})
    source = open_source(tmp_path / "s")
    before = n_open()
    assert all(source.read(row) == PNG + bytes([row]) for row in [*range(n), *range(n)])
    assert n_open() <= before + MAX_OPEN
    del source
    assert n_open() <= before


def test_opening_is_quick_and_takes_little_memory(tmp_path: Path) -> None:
    """Ten thousand images with labels; a hundred thousand were measured at ten times this."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(10):
        members: dict[str, bytes] = {}
        for number in range(1000):
            members |= {f"{number:06}.jpg": b"x" * 600, f"{number:06}.cls": b"%d" % (number % 10)}
        write_tar(folder / f"{shard:03}.tar", members)
    start = time.perf_counter()
    source = open_source(folder)
    seconds = time.perf_counter() - start
    assert source.manifest().n_rows == 10_000
    assert source.read(9_999) == b"x" * 600
    assert seconds < 5
    held = [value for value in vars(source).values() if isinstance(value, np.ndarray)]
    assert sum(value.nbytes for value in held) <= 32 * 10_000


def test_a_relabeled_shard_costs_no_extraction(tmp_path: Path) -> None:
    from containers import label
    from shapes import MODEL

    from toptune.extract import extract

    folder = make_tars(tmp_path)
    extract(folder, model=MODEL, store=tmp_path / "store")
    members = {f"{row:03}.png": png(row) for row in range(3)}
    write_tar(folder / "train-000.tar", members | {f"{row:03}.cls": b"wasp" for row in range(3)})
    summary = extract(folder, model=MODEL, store=tmp_path / "store", update=True)
    assert summary.units_done == 0
    assert label(0) != "wasp"
