"""Write llms.txt: what toptune is and where its pages are, for programs that read the pages (llmstxt.org).

    python scripts/llms_txt.py

The list is that of the site's nav. tests/test_site.py holds the file to it.
"""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "llms.txt"
_HEAD = """# toptune

> toptune runs a frozen image backbone (timm, torchvision, transformers, open_clip, or your own) once over
> images, stores the features of its layers, and trains classifiers on the stored features in seconds. It is
> a command line and a Python package.

Two commands make a classifier of a folder with a sub-folder of images for each class: `toptune extract photos
--model vit_small_patch16_dinov3.lvd1689m --store features`, then `toptune train --store features --out run`;
`toptune predict run new-photos` uses it. In Python: `from toptune.extract import extract`, `from
toptune.train import train`, `from toptune import Classifier, load_features`. Every command has `--help` and
`--json`; notes and errors end with a code, such as `[TT012]`, that docs/reference/warnings.md explains. Paths
are those of the repository.
"""


class _Settings(yaml.SafeLoader):  # type: ignore[misc]
    """Settings of MkDocs, without the Python objects that they name."""


_Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def file_of(page: str) -> Path:
    """Return the file of a page of the nav: at the root of the repository, in docs, or a notebook there."""
    if (ROOT / page).is_file() and not (ROOT / "docs" / page).is_file():
        return ROOT / page
    notebook = ROOT / "docs" / Path(page).with_suffix(".py")
    return notebook if notebook.is_file() else ROOT / "docs" / page


def title_of(file: Path) -> str:
    """Return the first heading of a page; of a page of tables alone, its name."""
    heading = r"^# # (.+)$" if file.suffix == ".py" else r"^# (.+)$"
    found = re.search(heading, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return found[1].replace("`", "") if found else file.stem.capitalize()


def llms_text() -> str:
    """Return the content of llms.txt."""
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Settings)["nav"]  # noqa: S506
    parts = [_HEAD]
    for section in nav:
        for name, pages in section.items():
            files = [file_of(page) for page in pages]
            lines = [f"- [{title_of(file)}]({file.relative_to(ROOT).as_posix()})" for file in files]
            parts.append(f"## {name}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(llms_text(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
