// How the results were made: what is beside the page in measurements.js. There is none if they came from elsewhere.
{
  const time = (seconds) => {
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${(seconds / 60).toFixed(1)} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  /** Time and memory of each stage, in its row. */
  function showStages(stages) {
    const most = (figure) => Math.max(...Object.values(stages).map((cost) => cost[figure]));
    const size = (mb) => (mb < 1000 ? `${Math.round(mb)} MB` : `${(mb / 1024).toFixed(1)} GB`);
    const onGpu = Object.values(stages).some((cost) => cost.gpu_memory_mb !== null);
    const table = find("pipeline-table");
    table.querySelectorAll('[data-figure="gpu"]').forEach((cell) => (cell.hidden = !onGpu));
    for (const row of table.querySelectorAll("[data-stage]")) {
      const cost = stages[row.dataset.stage];
      if (!cost) continue;
      const cell = (figure) => row.querySelector(`[data-figure="${figure}"]`);
      cell("seconds").textContent = time(cost.seconds);
      cell("seconds").title = `${cost.instances} measured here, the longest ${time(cost.longest)}`;
      cell("seconds").style.setProperty("--share", `${(100 * cost.seconds) / most("seconds")}%`);
      cell("memory").textContent = size(cost.memory_mb);
      cell("memory").style.setProperty("--share", `${(100 * cost.memory_mb) / most("memory_mb")}%`);
      if (cost.gpu_memory_mb !== null) cell("gpu").textContent = size(cost.gpu_memory_mb);
    }
  }

  /** The time of each stage by run, a line for each stage. */
  function showRuns(stages, runs) {
    const table = find("hours-table");
    const names = Object.keys(runs).sort((one, other) => (one === "") - (other === ""));
    const cell = (seconds) => make("td", { className: "number", "data-value": seconds }, seconds ? time(seconds) : "–");
    const cells = (times) => [...times.map(cell), cell(sum(times))];
    const head = (name) => make("th", { scope: "col", className: "number" }, name);
    table.tHead.rows[0].append(...names.map((name) => head(name || "shared")), head("all"));
    const order = [...find("pipeline-table").querySelectorAll("[data-stage]")].map((row) => row.dataset.stage);
    for (const stage of order.filter((name) => name in stages)) {
      const times = names.map((name) => runs[name][stage] ?? 0);
      table.tBodies[0].append(make("tr", {}, make("th", { scope: "row" }, stage), ...cells(times)));
    }
    const totals = names.map((name) => sum(Object.values(runs[name])));
    table.tBodies[0].append(make("tr", { className: "total" }, make("th", { scope: "row" }, "sum"), ...cells(totals)));
    table.dataset.name = "times";
    startTable(table);
    find("hours").hidden = false;
  }

  /** When and where, and from which commit. */
  function showOrigin({ ended, hosts, devices, commit }) {
    const date = (text) => `${text.slice(0, 10)} ${text.slice(11, 16)}`;
    const days = [...new Set(ended.map(date))];
    const facts = {
      made: days.length ? `${days.join(" to ")} UTC, on ${hosts.join(", ")} (${devices.join(", ")})` : "",
      commit: commit ? commit.sha.slice(0, 10) + (commit.changed ? ", with changes that are not in it" : "") : "",
      "to make it again": commit && !commit.changed ? `git checkout ${commit.sha.slice(0, 10)} && dvc repro` : "",
    };
    const lines = Object.entries(facts).filter(([, fact]) => fact);
    find("facts").append(...lines.map(([name, fact]) => make("div", {}, make("dt", {}, name), make("dd", {}, fact))));
    find("facts").hidden = !lines.length;
  }

  const made = globalThis.measurements;
  if (made) {
    showStages(made.by_stage);
    if (Object.keys(made.by_run).length) showRuns(made.by_stage, made.by_run);
    showOrigin(made);
  }
  find("unmeasured").hidden = Object.keys(made?.by_stage ?? {}).length > 0;
}
