"""Templates become pages that load nothing and run one script of ours at most."""

import base64
import hashlib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from toptune.store.datasets.outside_text import ESCAPES

_BASE = Path(__file__).parent / "base.css"


def render_page(template: Path, **values: object) -> bytes:
    """Render a template with the style, and the script if any, that lie beside it under the same name.

    The template finds ``style``, ``script``, ``script_digest``, ``version`` of toptune and ``date`` beside
    the values. The digest lets the browser run this script and no other (Content Security Policy 3), because
    a class name that holds a script element could otherwise run code in the page.

    Parameters
    ----------
    template : path
        File such as ``report.html``, beside ``report.css`` and ``report.js``.
    **values
        What the template shows; text is escaped.

    Returns
    -------
    bytes
        The page in UTF-8.
    """
    environment = Environment(
        # Names of classes and images come from data sets and may hold HTML; undefined names of a template
        # are mistakes.
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    beside = template.with_suffix(".js")
    script = beside.read_text(encoding="utf-8") if beside.exists() else ""
    style = _BASE.read_text(encoding="utf-8") + template.with_suffix(".css").read_text(encoding="utf-8")
    page = environment.get_template(template.name).render(
        values,
        version=version("toptune"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        style=Markup(style),  # noqa: S704  (ours)
        script=Markup(script),  # noqa: S704  (ours)
        script_digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # File names that are not UTF-8 reach Python as lone surrogates, which cannot be encoded otherwise.
    return page.encode("utf-8", ESCAPES)
