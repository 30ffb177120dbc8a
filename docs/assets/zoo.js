// Filters and sorts the tables of the zoo. Without JavaScript the tables are complete.
"use strict";

function cellText(row, column) {
  return row.cells[column].textContent.trim();
}

function compareRows(column, direction) {
  return (one, two) => {
    const [a, b] = [cellText(one, column), cellText(two, column)];
    if (a === "" || b === "") return (a === "") - (b === ""); // unknown numbers are last, in both directions
    const [x, y] = [parseFloat(a), parseFloat(b)];
    const numeric = /^[-+]?[\d.]+%?$/;
    const order = numeric.test(a) && numeric.test(b) ? x - y : a.localeCompare(b);
    return direction * order;
  };
}

function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compareRows(column, direction)));
}

function labeled(text, field) {
  const label = document.createElement("label");
  label.append(text, field);
  return label;
}

function addTools(box) {
  const table = box.querySelector("table");
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const rows = [...table.tBodies[0].rows];
  const tools = document.createElement("div");
  tools.className = "zoo-tools";

  const search = document.createElement("input");
  search.type = "search";
  search.placeholder = "part of a name, a teacher or a source, e.g. retina pkd";
  search.setAttribute("aria-label", "filter rows");

  const size = document.createElement("input");
  size.type = "number";
  size.min = "0";
  size.style.width = "5rem";

  const license = document.createElement("select");
  const column = heads.indexOf("license");
  for (const text of ["any", ...new Set(rows.map((row) => cellText(row, column)))].filter(Boolean)) {
    license.append(new Option(text, text));
  }

  const distilled = document.createElement("input");
  distilled.type = "checkbox";
  const count = document.createElement("output");

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits =
        words.every((word) => text.includes(word)) &&
        (size.value === "" || parseFloat(cellText(row, heads.indexOf("params (M)"))) <= parseFloat(size.value)) &&
        (license.value === "any" || cellText(row, column) === license.value) &&
        (!distilled.checked || cellText(row, heads.indexOf("teacher")) !== "");
      row.hidden = !fits;
      shown += fits;
    }
    count.value = `${shown} of ${rows.length}`;
  };
  for (const field of [search, size, license, distilled]) field.addEventListener("input", apply);

  tools.append(
    search, labeled("params up to (M) ", size), labeled("license ", license), labeled("distilled only ", distilled), count,
  );
  box.prepend(tools);
  [...table.tHead.rows[0].cells].forEach((cell, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    button.addEventListener("click", () => sortBy(table, index));
    cell.append(button);
  });
  apply();
}

document.querySelectorAll(".zoo").forEach(addTools);
