"use strict";
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);
  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");

  const compare = (column) => (one, other) => {
    const [a, b] = [one.cells[column], other.cells[column]];
    if (!("value" in a.dataset)) return a.textContent.localeCompare(b.textContent);
    // What was not measured stands last, whichever way the column is sorted.
    return parseFloat(a.dataset.value) - parseFloat(b.dataset.value);
  };
  const isMissing = (row, column) => row.cells[column].dataset.value === "";

  heads.forEach((head, column) => head.addEventListener("click", () => {
    const falls = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const known = rows.filter((row) => !isMissing(row, column)).sort(compare(column));
    if (falls) known.reverse();
    body.append(...known, ...rows.filter((row) => isMissing(row, column)));
  }));

  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${rows.length}`;
  });
})();
