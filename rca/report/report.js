// The report's controls: results, classes and pipeline.

// Results: at the best threshold, until the reader chooses another.
if (find("result-controls")) {
  find("result-controls").hidden = false;
  find("result-controls").addEventListener("submit", (event) => event.preventDefault());
}
if (find("result-choice")) {
  const table = document.querySelector(".headline");
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  const groups = [...table.querySelectorAll(".group")].map((group) => [group, heads.splice(0, group.colSpan)]);
  const show = () => {
    const chosen = find("result-choice").value;
    for (const cell of table.querySelectorAll("[data-choice]")) cell.hidden = chosen !== "" && cell.dataset.choice !== chosen;
    for (const name of table.querySelectorAll(".choice")) name.hidden = chosen !== ""; // the control says it
    for (const [group, columns] of groups) {
      const shown = columns.filter((column) => !column.hidden).length;
      group.hidden = shown === 0;
      group.colSpan = Math.max(shown, 1);
    }
  };
  find("result-choice").addEventListener("input", show);
  show();
}

// Classes: one table at a time, in the chosen order.
if (find("class-table")?.options.length) {
  const tables = [...document.querySelectorAll(".class-table")];
  const rows = tables.map((table) => [...table.querySelectorAll("tbody tr:not(.total)")]);
  const show = () => {
    const chosen = Number(find("class-table").value);
    const run = Number(find("class-order").value);
    tables.forEach((table, number) => (table.hidden = number !== chosen));
    const value = (row) => Number(row.cells[run + 1].dataset.value ?? Infinity);
    const order = run < 0 ? rows[chosen] : rows[chosen].toSorted((one, other) => value(one) - value(other));
    tables[chosen].querySelector("tbody").prepend(...order);
  };
  tables.forEach((table) => (table.querySelector("h3").hidden = true)); // the control shows the name
  find("class-controls").hidden = false;
  find("class-controls").addEventListener("input", show);
  find("class-controls").addEventListener("submit", (event) => event.preventDefault());
  show();
}

const gallery = globalThis.gallery?.images.length ? startGallery(globalThis.gallery) : null;
startCharts(globalThis.charts);
if (find("scatter-controls")) startScatter(globalThis.charts.scatter, gallery);
