// The report's errors: what each kind costs, and the confusion matrix. Names only ever become text.

function startErrors(data) {
  const kinds = data.kinds;
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const percent = (share) => (Number.isFinite(share) ? (100 * share).toFixed(1) : "–");
  const count = (pixels) => pixels.toLocaleString("en");
  const add = (rows) => kinds.map((_, at) => sum(rows.map((row) => row[at])));

  function measure(pixels) {
    const by = Object.fromEntries(kinds.map((kind, at) => [kind, pixels[at]]));
    if (data.ignored) by.undecided = 0;
    const all = sum(Object.values(by));
    const parts = data.shown.map(([name, members]) => [name, sum(members.map((kind) => by[kind]))]);
    const precision = by.hit / (by.hit + by.taken + by.too_large + by.leaked);
    const recall = by.hit / (by.hit + by.missed + by.too_small + by.undecided + by.confused);
    return { all, precision, recall, parts };
  }

  function makeBar({ all, parts }) {
    const bar = make("span", { className: "stack" });
    for (const [name, pixels] of parts) {
      if (!pixels) continue;
      const part = make("span", { title: `${name}: ${count(pixels)} pixels, ${percent(pixels / all)} %`, "data-kind": name });
      part.style.width = `${(100 * pixels) / all}%`;
      bar.append(part);
    }
    return bar;
  }

  function makeLines(head, names, rows, total, name) {
    const undecided = rows.some((row) => row[kinds.indexOf("undecided")]) && !data.ignored;
    const [right, ...wrong] = data.shown.filter(([kind]) => kind !== "undecided" || undecided);
    const titles = [["IoU", right[2]], ["precision", ""], ["recall", ""], ...wrong.map(([kind, , meaning]) => [kind, meaning])];
    const heads = [
      make("th", { scope: "col" }, head),
      make("th", { scope: "col", "data-copy": "no" }, "parts"),
      ...titles.map(([title, text]) => make("th", { scope: "col", className: "number", title: text }, title)),
    ];
    const makeRow = (title, pixels, className = "") => {
      const found = measure(pixels);
      const by = Object.fromEntries(found.parts);
      const shares = [by[right[0]] / found.all, found.precision, found.recall, ...wrong.map(([kind]) => by[kind] / found.all)];
      const cells = shares.map((share) => make("td", { className: "number", "data-value": String(share) }, percent(share)));
      return make("tr", { className }, make("th", { scope: "row" }, title), make("td", { "data-value": String(found.all) }, makeBar(found)), ...cells);
    };
    const body = rows.map((row, at) => [names[at], row]).filter(([, row]) => sum(row)).map(([title, row]) => makeRow(title, row));
    if (total) body.push(makeRow("all", add(rows), "total"));
    return makeTable(make("thead", {}, make("tr", {}, ...heads)), body, name, `Errors by ${head}`, "errors");
  }

  function makeTable(head, rows, name, label, className) {
    const table = make("table", { className, "data-name": name }, head, make("tbody", {}, ...rows));
    return make("div", { className: "scroll", role: "region", tabIndex: 0, "aria-label": label }, table);
  }

  function makeMatrix(table) {
    const last = data.classes.length;
    const pixels = data.classes.map(() => Array(last + 1).fill(0));
    for (const [truth, predicted, found] of table.confusion) pixels[truth][Math.min(predicted, last)] = found;
    const used = [...Array(last + 1).keys()].filter((label) => label < last ? sum(pixels[label]) || pixels.some((row) => row[label]) : pixels.some((row) => row[last]));
    const name = (label) => data.classes[label] ?? "undecided";
    const shares = find("errors-numbers").value === "shares";
    const heads = used.map((label) => make("th", { scope: "col", className: "number" }, name(label)));
    const rows = used.filter((truth) => truth < last).map((truth) => {
      const all = sum(pixels[truth]);
      const cells = used.map((label) => {
        const found = pixels[truth][label];
        const title = `${name(truth)} in the truth, ${name(label)} in the mask: ${count(found)} pixels, ${percent(found / all)} % of ${name(truth)}`;
        const cell = make("td", { className: "number", title, "data-value": String(shares ? found / all : found) }, found ? (shares ? percent(found / all) : count(found)) : "");
        cell.style.setProperty("--share", all ? found / all : 0);
        if (label === truth) cell.classList.add("right");
        return cell;
      });
      return make("tr", {}, make("th", { scope: "row" }, name(truth)), ...cells);
    });
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "truth \\ mask"), ...heads));
    return makeTable(head, rows, "confusion", "Confusion matrix", "matrix");
  }

  function show() {
    const chosen = Number(find("errors-run").value);
    const tables = data.tables.filter((table) => table.run === chosen);
    const masks = find("errors-masks");
    const names = tables.map((table) => table.masks);
    const kept = names.includes(masks.value) ? masks.value : names[0];
    masks.replaceChildren(...names.map((name) => make("option", { selected: name === kept }, name)));
    const table = tables.find((each) => each.masks === kept);
    const parts = data.groups.map(([head, lines], at) => makeLines(head, lines, table.groups[at], at === 0, `errors-${at}`));
    find("errors-tables").replaceChildren(...parts);
    find("errors-matrix").replaceChildren(makeMatrix(table));
    document.querySelectorAll("#errors-content table").forEach(startTable);
  }

  const runs = [...new Set(data.tables.map((table) => table.run))];
  find("errors-run").append(...runs.map((run) => make("option", { value: run, selected: run === runs.at(-1) }, data.run_names[run])));
  find("errors-controls").addEventListener("submit", (event) => event.preventDefault());
  find("errors-controls").addEventListener("input", show);
  find("errors-controls").hidden = false;
  show();
}

if (globalThis.errors?.tables.length) startErrors(globalThis.errors);
