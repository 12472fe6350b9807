"""Pages that load nothing: their elements, and that nothing else is in them."""

import base64
import hashlib
import re
from html.parser import HTMLParser


class Elements(HTMLParser):
    """Every element with its attributes, and the texts of scripts and of everything else."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside == "script" else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def check_self_contained(page: str) -> Elements:
    """Hold that nothing is loaded, that one script runs, and that ids are unique."""
    elements = Elements(page)
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert "url(http" not in (value or "")
            if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
                assert (value or "").startswith(("data:image/", "#")), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (script,) = elements.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page
    ids = [value for _, attributes in elements.found if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    return elements
