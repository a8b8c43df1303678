// The page's charts: Vega-Lite draws them when they are first seen, in the page's colours.

/** The colours of a chart's letters, rules and ground on this page. */
function readColours(figure) {
  const read = (name) => {
    const probe = make("span");
    probe.style.color = `var(--${name})`;
    figure.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  };
  return { ink: read("ink"), quiet: read("quiet"), rule: read("rule"), ground: read("raised") };
}

/** How Vega-Lite draws on this page; the page has its own legends, and a saved picture has Vega's. */
function configure({ ink, quiet, rule, ground }, legends) {
  const letters = { labelColor: quiet, titleColor: quiet, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    background: ground,
    font: "system-ui, sans-serif",
    axis: { ...letters, domainColor: rule, tickColor: rule, gridColor: rule },
    legend: { ...letters, disable: !legends, orient: "bottom", columns: 4, symbolOpacity: 1 },
    title: { color: ink },
    view: { stroke: null },
  };
}

/** Draw a specification into an element. No code is made from text, which a strict content policy would refuse. */
async function drawSpec(element, spec, legends = false) {
  await loadScript("vega.js");
  const colours = readColours(element);
  const [red] = colours.ground.match(/\d+/g).map(Number);
  return vegaEmbed(element, spec, {
    actions: false,
    ast: true,
    defaultStyle: false,
    config: configure(colours, legends),
    renderer: spec.usermeta.renderer,
    tooltip: { theme: red < 128 ? "dark" : "light" },
  });
}

/** The view of each chart that has been drawn, by name, for those who look further with the browser's console. */
globalThis.drawnCharts = new Map();

/** A chart in a figure: drawn anew when its specification or the page's colours change. */
class Chart {
  constructor(figure, spec, onClick = null) {
    [this.figure, this.spec, this.onClick, this.drawn] = [figure, spec, onClick, null];
    const name = figure.dataset.chart;
    const axis = 49; // the letters under a chart, in pixels
    if (spec.height > 0) figure.querySelector(".plot").style.minHeight = `max(16rem, ${spec.height + axis}px)`; // nothing moves when it is drawn
    const offer = (text, act) => {
      const button = make("button", { type: "button", className: "plain" }, text);
      button.addEventListener("click", act);
      return button;
    };
    const buttons = [
      offer("SVG", () => this.saveAs("svg")),
      offer("PNG", () => this.saveAs("png")),
      offer("CSV", () => save(`${name}.csv`, "text/csv", this.csv)),
    ];
    const tools = make("p", { className: "copy quiet" }, "Save as", ...buttons);
    if (spec.usermeta.log) {
      const box = make("input", { type: "checkbox" });
      box.addEventListener("input", () => {
        setScales(spec, box.checked ? "log" : "linear");
        this.change();
      });
      tools.append(make("label", {}, box, " logarithmic"));
    }
    figure.append(tools);
    const seen = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      seen.disconnect();
      this.draw();
      document.addEventListener("scheme", () => this.draw());
    });
    seen.observe(figure);
  }

  /** The specification has changed: draw it, unless the chart has not been seen yet. */
  change() {
    if (this.drawn) this.draw();
  }

  /** Draw when what was asked before is drawn. */
  draw() {
    this.drawn = Promise.resolve(this.drawn).then(async (before) => {
      before?.finalize();
      const drawn = await drawSpec(this.figure.querySelector(".plot"), this.spec);
      if (this.onClick) drawn.view.addEventListener("click", (_, item) => item?.datum && this.onClick(item.datum));
      return drawn;
    });
    drawnCharts.set(this.figure.dataset.chart, this.drawn);
  }

  /** Save the chart as it is chosen, with a legend, at the width of a page. */
  async saveAs(type) {
    const place = make("div", { className: "aside" });
    this.figure.append(place);
    const { view, finalize } = await drawSpec(place, { ...this.spec, width: 640 }, true);
    const shown = this.drawn && (await this.drawn).view;
    for (const { name, bind } of shown ? (this.spec.params ?? []) : []) {
      if (bind && bind !== "scales") view.signal(name, shown.signal(name));
    }
    await view.runAsync();
    const link = make("a", { href: await view.toImageURL(type, 2), download: `${this.figure.dataset.chart}.${type}` });
    link.click();
    finalize();
    place.remove();
  }

  /** The figures that the chart shows. */
  get csv() {
    const lines = this.spec.datasets[this.spec.usermeta.table];
    const quote = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value ?? ""));
    const heads = Object.keys(lines[0] ?? {});
    return [heads, ...lines.map((line) => heads.map((head) => line[head]))].map((cells) => `${cells.map(quote).join(",")}\n`).join("");
  }
}

/** Set the type of all scales that have one; a logarithmic scale has no zero. */
function setScales(part, type) {
  if (part === null || typeof part !== "object") return;
  if (part.scale?.type) part.scale = type === "log" ? { type } : { type, zero: false };
  for (const inner of Object.values(part)) setScales(inner, type);
}

function startCharts(specs) {
  for (const figure of document.querySelectorAll("[data-chart]")) {
    if (figure.dataset.chart !== "scatter") new Chart(figure, specs[figure.dataset.chart]);
  }
}
