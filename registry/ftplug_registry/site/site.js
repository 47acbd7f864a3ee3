// Search and sort of the list. Without this script the whole list is there, the newest first.
"use strict";
(() => {
  const table = document.getElementById("artifacts");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const box = document.getElementById("search");
  const count = document.getElementById("count");

  function search() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      row.hidden = !words.every((word) => texts[at].includes(word));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = `${shown} of ${rows.length} artifacts`;
  }

  // What a row is sorted by; a cell that says nothing comes last in both directions.
  function key(row, column, isNumber) {
    const cell = row.cells[column];
    const text = cell.dataset.key ?? cell.textContent.trim();
    if (!isNumber) return text.toLowerCase() || null;
    const number = parseFloat(cell.dataset.key);
    return Number.isNaN(number) ? null : number;
  }

  function sort(head, column) {
    const down = head.getAttribute("aria-sort") === "ascending";
    const isNumber = head.classList.contains("n");
    const keys = new Map(rows.map((row) => [row, key(row, column, isNumber)]));
    const order = [...rows].sort((one, other) => {
      const a = keys.get(one);
      const b = keys.get(other);
      if (a === null || b === null) return (a === null) - (b === null);
      return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1);
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...order);
  }

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(head, column));
    head.replaceChildren(button);
  });
  box.value = new URLSearchParams(location.search).get("q") ?? "";
  box.addEventListener("input", search);
  document.getElementById("search-row").hidden = false;
  search();
})();
