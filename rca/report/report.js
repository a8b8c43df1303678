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

// Time and memory of the stages; there are none if the results came from elsewhere.
{
  const measured = globalThis.measurements ?? {};
  const most = (figure) => Math.max(...Object.values(measured).map((cost) => cost[figure]));
  const size = (mb) => (mb < 1000 ? `${Math.round(mb)} MB` : `${(mb / 1024).toFixed(1)} GB`);
  const time = (seconds) => {
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${(seconds / 60).toFixed(1)} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const onGpu = Object.values(measured).some((cost) => cost.gpu_memory_mb !== null);
  const table = find("pipeline-table");
  table.querySelectorAll('[data-figure="gpu"]').forEach((cell) => (cell.hidden = !onGpu));
  for (const row of table.querySelectorAll("[data-stage]")) {
    const cost = measured[row.dataset.stage];
    if (!cost) continue;
    const cell = (figure) => row.querySelector(`[data-figure="${figure}"]`);
    cell("seconds").textContent = time(cost.seconds);
    cell("seconds").title = `${cost.instances} measured here, the longest ${time(cost.longest)}`;
    cell("seconds").style.setProperty("--share", `${(100 * cost.seconds) / most("seconds")}%`);
    cell("memory").textContent = size(cost.memory_mb);
    cell("memory").style.setProperty("--share", `${(100 * cost.memory_mb) / most("memory_mb")}%`);
    if (cost.gpu_memory_mb !== null) cell("gpu").textContent = size(cost.gpu_memory_mb);
  }
  find("unmeasured").hidden = Object.keys(measured).length > 0;
}

const gallery = globalThis.gallery?.images.length ? startGallery(globalThis.gallery) : null;
startCharts(globalThis.charts);
if (find("scatter-controls")) startScatter(globalThis.charts.scatter, gallery);
