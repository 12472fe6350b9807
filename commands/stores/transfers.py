"""`toptune store copy`, `export` and `import`: commands that move features between stores and files."""

from typing import Any

import click

from toptune.commands.options.common import JSON, POOLING, STORE
from toptune.commands.options.help import Choice, Command
from toptune.commands.options.only_names import fill_names
from toptune.commands.options.parsing import parse_names
from toptune.commands.options.printing import show
from toptune.commands.options.training import DATASET, MODEL


@click.command("copy", cls=Command)
@click.argument("source")
@click.argument("target")
@click.option("--dataset", help="Copy only this data set.")
@click.option("--model", help="Copy only the caches of this model; without --dataset, over all data sets.")
@click.option("--layers", callback=parse_names, help="Copy only these arrays: layers and globs, with commas.")
@click.option(
    "--format",
    type=Choice(["zarr", "hdf5"]),
    help="Format of the copies; by default the format of the source.",
)
@click.option("--move", is_flag=True, help="Remove the caches of the source once the copy is verified.")
@JSON
def store_copy(source: str, target: str, as_json: bool, **options: Any) -> None:
    """Copy or move features from SOURCE to TARGET, verified.

    SOURCE and TARGET are stores. Stopped at any moment, the same command resumes.
    """
    from toptune.store import FeatureStore, copy_store
    from toptune.workflows import work_progress

    with work_progress("copying") as progress:
        report = copy_store(FeatureStore.open(source), target, progress=progress, **options)
    show(as_json, report.to_dict(), str(report))


@click.command("export", cls=Command)
@STORE
@DATASET
@MODEL
@click.option("--layers", help="Layers to write: stored layers and globs, with commas; by default all.")
@POOLING
@click.option("--split", help="Write only rows of this split.")
@click.option(
    "--format",
    type=Choice(["npy", "parquet", "safetensors"]),
    help="Format of the files; by default told by the ending of --out, and npy for a folder.",
)
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(),
    help="Folder (npy) or file to write; it must not exist yet.",
)
@JSON
def store_export(root: str, as_json: bool, **options: Any) -> None:
    """Write features as files that other programs read.

    Ids, labels and splits are written with the features.
    """
    from toptune.text import counted
    from toptune.workflows import export_stored, work_progress

    options = fill_names(root, options)
    with work_progress("exporting") as progress:
        done = export_stored(root, progress=progress, **options)
    text = (
        f"{counted(done['rows'], 'row')} of {', '.join(done['arrays'])} in {done['out']}, "
        f"by buffers of at most {done['memory_bytes'] / 2**20:.1f} MiB"
    )
    if done["failed"]:
        text += f"; NaN in the rows of {counted(len(done['failed']), 'image')} that had failed"
    show(as_json, done, text)


@click.command("import", cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@STORE
@click.option("--dataset", required=True, help="Name of the data set in the store.")
@click.option("--model", required=True, help="Name for what made the features.")
@click.option(
    "--table",
    type=click.Path(),
    help="CSV or Parquet file with columns id, label and split, one line for each row.",
)
@click.option("--ids", help="Ids: an array in FILES, or a .txt, .npy or one-column file.")
@click.option("--labels", help="Labels: an array in FILES, or a .txt, .npy or one-column file.")
@click.option("--splits", help="Splits: an array in FILES, or a .txt, .npy or one-column file.")
@click.option("--arrays", callback=parse_names, help="Take only these matrices of FILES; by default all.")
@click.option(
    "--layers",
    callback=parse_names,
    help="Names of the layers of these matrices; by default the names of the arrays.",
)
@click.option(
    "--format",
    type=Choice(["zarr", "hdf5"]),
    default="zarr",
    show_default=True,
    help="Format of the cache.",
)
@click.option(
    "--skip-failed",
    "allow_failed",
    is_flag=True,
    help="Store rows with NaN as failed rows, in place of refusing them.",
)
@JSON
def store_import(files: tuple[str, ...], root: str, as_json: bool, **options: Any) -> None:
    """Make features from elsewhere a data set of the store.

    FILES are .npy, .npz, .h5, .safetensors, .parquet or .pt. Nothing in them is executed.
    """
    from toptune.store import describe
    from toptune.store.features.feature_store import FeatureStore
    from toptune.workflows import import_files, work_progress

    with work_progress("importing") as progress:
        cache = import_files(files, root, progress=progress, **options)
    text = f"{cache.n_rows} rows in {cache.path}; train with --dataset {cache.dataset} --model {cache.model}"
    show(as_json, describe(FeatureStore.open(root), cache), text)
