"""`toptune store copy`, `export` and `import`: features between stores, and files of other programs."""

from typing import Any

import click

from toptune.commands.options.common import JSON, POOLING, STORE
from toptune.commands.options.parsing import parse_names
from toptune.commands.options.printing import show


@click.command("copy")
@click.argument("source")
@click.argument("target")
@click.option("--dataset", help="Only this data set.")
@click.option("--model", help="Only this model's cache; needs --dataset.")
@click.option("--layers", callback=parse_names, help="Only these arrays: layers and globs with commas.")
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), help="Of the copies; by default as they are.")
@click.option("--move", is_flag=True, help="Remove the source's caches once the copy is verified.")
@JSON
def store_copy(source: str, target: str, as_json: bool, **options: Any) -> None:
    """Copy or move features from store SOURCE to store TARGET, verified; resumes."""
    from toptune.store import FeatureStore, copy_store
    from toptune.workflows import work_progress

    with work_progress("copying") as progress:
        report = copy_store(FeatureStore.open(source), target, progress=progress, **options)
    show(as_json, report.to_dict(), str(report))


@click.command("export")
@STORE
@click.option("--dataset", required=True)
@click.option("--model", required=True, help="As given to extract.")
@click.option("--layers", help="all, or stored layers and globs with commas; by default last.")
@POOLING
@click.option("--split", help="Only rows of this split.")
@click.option(
    "--format", type=click.Choice(["npy", "parquet", "safetensors"]), default="npy", show_default=True
)
@click.option("--out", "-o", required=True, type=click.Path(), help="Made new: a folder (npy) or a file.")
@JSON
def store_export(root: str, as_json: bool, **options: Any) -> None:
    """Write features with ids and labels as files that other programs read."""
    from toptune.text import counted
    from toptune.workflows import export_stored, work_progress

    with work_progress("exporting") as progress:
        done = export_stored(root, progress=progress, **options)
    text = (
        f"{counted(done['rows'], 'row')} of {', '.join(done['arrays'])} in {done['out']}, "
        f"by buffers of at most {done['memory_bytes'] / 2**20:.1f} MiB"
    )
    if done["failed"]:
        text += f"; NaN in the rows of {counted(len(done['failed']), 'image')} that had failed"
    show(as_json, done, text)


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@STORE
@click.option("--dataset", required=True, help="Its name in the store.")
@click.option("--model", required=True, help="A name for what made the features.")
@click.option("--table", type=click.Path(), help="CSV or Parquet: columns id, label, split, a line a row.")
@click.option("--ids", help="An array in FILES, or a .txt, .npy or one-column file.")
@click.option("--labels", help="An array in FILES, or a .txt, .npy or one-column file.")
@click.option("--splits", help="An array in FILES, or a .txt, .npy or one-column file.")
@click.option("--arrays", callback=parse_names, help="Only these matrices of FILES; by default all.")
@click.option("--layers", callback=parse_names, help="Names of their layers; by default the arrays' own.")
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), default="zarr", show_default=True)
@click.option("--skip-failed", "allow_failed", is_flag=True, help="Store rows with NaN as failed.")
@JSON
def store_import(files: tuple[str, ...], root: str, as_json: bool, **options: Any) -> None:
    """Make features from elsewhere (.npy, .npz, .h5, .safetensors, .parquet, .pt) a data set of the store."""
    from toptune.store import describe
    from toptune.store.features.feature_store import FeatureStore
    from toptune.workflows import import_files, work_progress

    with work_progress("importing") as progress:
        cache = import_files(files, root, progress=progress, **options)
    text = f"{cache.n_rows} rows in {cache.path}; train with --model {cache.model} --layers all"
    show(as_json, describe(FeatureStore.open(root), cache), text)
