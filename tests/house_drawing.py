"""Draws the rooms into ARCHITECTURE.md from the code: ``make drawing``."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from house import FLOOR, HOUSES, ROOT, imported_files, room_of, sources, tree_of

PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- rooms:begin -->\n", "<!-- rooms:end -->"
# Nearly every room imports these; their arrows would hide all others, so they are left out of the drawing.
GROUND = ("errors", "text", "codes", "options", "machine", "costs")


def arrows() -> dict[str, set[str]]:
    """Return the lower rooms that each room imports."""
    found: dict[str, set[str]] = {room: set() for room in FLOOR}
    for path in sources():
        room = room_of(path)
        lower = (room_of(target) for target in imported_files(path, for_types=True))
        # A front also names what its upper rooms offer; only what it rests on is an arrow.
        found[room] |= {target for target in lower if FLOOR[target] < FLOOR[room]}
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """Drop each arrow that a chain of other arrows replaces (the transitive reduction)."""

    @cache
    def below(room: str) -> set[str]:
        return graph[room].union(*(below(target) for target in graph[room]))

    reach = {room: below(room) for room in graph}
    return {
        room: sorted(target for target in targets if not any(target in reach[other] for other in targets))
        for room, targets in graph.items()
    }


def purpose(room: str) -> str:
    """Return the first line of a room's docstring."""
    file = ROOT / f"{room}.py"
    text = ast.get_docstring(tree_of(file if file.exists() else ROOT / room / "__init__.py")) or ""
    return text.split("\n")[0]


def diagram() -> Iterator[str]:
    """Yield the lines of a mermaid flowchart: houses as frames, rooms as boxes, imports as arrows."""
    drawn = [room for room in FLOOR if room not in GROUND]
    rests_on = reduced({room: targets.difference(GROUND) for room, targets in arrows().items()})
    yield "flowchart TB"
    for house in (*reversed(HOUSES), ""):
        rooms = [room for room in reversed(drawn) if room.split("/")[0] == house]
        if rooms:
            boxes = "; ".join(f'{node(room)}["{label(room)}"]' for room in rooms)
            yield f"    subgraph {house}_house[{house}]; {boxes}; end"
    for house in ("cli", *reversed(HOUSES)):
        lines = [
            f"{node(room)} --> {' & '.join(map(node, rests_on[room]))}"
            for room in reversed(drawn)
            if room.split("/")[0] == house and rests_on[room]
        ]
        if lines:
            yield f"    {'; '.join(lines)}"


def node(room: str) -> str:
    """Name a room's box; the word ``end`` or a slash would stop mermaid."""
    return room.replace("/", "_")


def label(room: str) -> str:
    """Write on a box the room's name within its house; a house's own files are its front."""
    return room.partition("/")[2] or f"toptune.{room}"


def table() -> Iterator[str]:
    """Yield the lines of the table of rooms, from the ground up."""
    graph = reduced({room: targets - {"errors", "text", "codes"} for room, targets in arrows().items()})
    yield "| floor | room | files | purpose | rests on |"
    yield "|---|---|---|---|---|"
    for room, floor in FLOOR.items():
        files = sum(room_of(path) == room and path.name != "__init__.py" for path in sources())
        place = f"{room}.py" if (ROOT / f"{room}.py").exists() else f"{room}/"
        below = ", ".join(graph[room]) or "-"
        link = f"[`{place}`]({place.rstrip('/')})"
        yield f"| {floor + 1} | {link} | {files or '-'} | {purpose(room)} | {below} |"


def drawn_page(page: str) -> str:
    """Return ARCHITECTURE.md with the drawing and the table as the code stands."""
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE} has no lines {BEGIN.strip()} and {END}, in this order")
    drawing = ["```mermaid", *diagram(), "```", "", *table()]
    return head + BEGIN + "\n".join(drawing) + "\n" + END + tail


if __name__ == "__main__":
    PAGE.write_text(drawn_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"drew {len(FLOOR)} rooms into {Path(PAGE).name}")
