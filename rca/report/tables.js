// Tables of figures: a click on a head sorts, a button copies what is shown or saves it. Names only ever become text.

/** The heads of a table's columns, from one or two rows; the first spans both. */
function listHeads(table) {
  const [first, second] = table.tHead.rows;
  return second ? [first.cells[0], ...second.cells] : [...first.cells];
}

/** The words of a cell; an empty string where it only says that there is nothing. */
function readCell(cell) {
  const text = cell.innerText.trim().replace(/\s+/g, " ");
  return text === "–" ? "" : text;
}

/** What a table shows: its heads and the cells of its lines, without what is hidden. */
function readTable(table) {
  const heads = listHeads(table);
  const groups = table.tHead.rows.length > 1 ? [...table.tHead.rows[0].cells].slice(1) : [];
  const above = groups.filter((group) => !group.hidden).flatMap((group) => Array(group.colSpan).fill(readCell(group)));
  const shown = [...heads.keys()].filter((column) => !heads[column].hidden && heads[column].dataset.copy !== "no");
  const names = shown.map((column) => readCell(heads[column]));
  const titles = groups.length ? names.map((name, at) => (at ? `${above[at - 1]} ${name}` : name)) : names;
  const lines = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.hidden);
  return { titles, lines: lines.map((row) => shown.map((column) => row.cells[column])) };
}

const FORMATS = {
  Markdown: ({ titles, lines }) => {
    const escape = (text) => text.replaceAll("|", "\\|");
    const draw = (cells) => `| ${cells.join(" | ")} |\n`;
    const bold = (cell) => (cell.classList.contains("best") ? `**${escape(readCell(cell))}**` : escape(readCell(cell)));
    const rule = titles.map((_, at) => (at ? "---:" : "---"));
    return draw(titles.map(escape)) + draw(rule) + lines.map((cells) => draw(cells.map(bold))).join("");
  },
  LaTeX: ({ titles, lines }) => {
    const signs = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\u00b1": "$\\pm$" };
    const escape = (text) => text.replace(/[\\~^\u00b1&%$#_{}]/g, (sign) => signs[sign] ?? `\\${sign}`);
    const bold = (cell) => (cell.classList.contains("best") ? `\\textbf{${escape(readCell(cell))}}` : escape(readCell(cell)));
    const draw = (cells) => `${cells.join(" & ")} \\\\\n`;
    const start = `\\begin{tabular}{l${"r".repeat(titles.length - 1)}}\n\\toprule\n`;
    return `${start}${draw(titles.map(escape))}\\midrule\n${lines.map((cells) => draw(cells.map(bold))).join("")}\\bottomrule\n\\end{tabular}\n`;
  },
  CSV: ({ titles, lines }) => {
    const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [titles, ...lines.map((cells) => cells.map(readCell))].map((cells) => `${cells.map(quote).join(",")}\n`).join("");
  },
};

/** Offer text as a file. */
function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text }); // a page without the right to the clipboard
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** Sort the lines of a table by a column, from the highest, then from the lowest; "total" lines stay last. */
function sortTable(table, column) {
  const heads = listHeads(table);
  const order = heads[column].getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", order);
  const value = (row) => Number.parseFloat(row.cells[column].dataset.value ?? row.cells[column].innerText);
  const sign = order === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("total"));
    rows.sort((one, other) => {
      const [first, second] = [value(one), value(other)];
      if (Number.isNaN(first) && Number.isNaN(second)) return -sign * one.cells[column].innerText.localeCompare(other.cells[column].innerText);
      return Number.isNaN(first) - Number.isNaN(second) || sign * (first - second); // what has no figure comes last
    });
    body.prepend(...rows);
  }
}

/** Give a table its buttons; its attribute data-name names the file. */
function startTable(table) {
  listHeads(table).forEach((head, column) => {
    const button = make("button", { type: "button", className: "head-button", title: "Sort by this column" });
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortTable(table, column));
    head.append(button);
  });
  const said = make("span", { role: "status" });
  const buttons = Object.keys(FORMATS).map((format) => {
    const button = make("button", { type: "button", className: "plain" }, format);
    button.addEventListener("click", async () => {
      await copy(FORMATS[format](readTable(table)));
      said.textContent = "copied";
    });
    return button;
  });
  const file = make("button", { type: "button", className: "plain" }, "Save as CSV");
  file.addEventListener("click", () => save(`${table.dataset.name}.csv`, "text/csv", FORMATS.CSV(readTable(table))));
  table.closest(".scroll").after(make("p", { className: "copy quiet" }, "Copy as", ...buttons, file, said));
}

document.querySelectorAll("table[data-name]").forEach(startTable);

// Results: only the runs whose name holds the text.
if (find("result-name")) {
  find("result-name").addEventListener("input", (event) => {
    const text = event.target.value.toLowerCase();
    for (const row of document.querySelector(".headline").tBodies[0].rows) {
      row.hidden = !row.cells[0].innerText.toLowerCase().includes(text);
    }
  });
}
