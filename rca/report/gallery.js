// The report's gallery.

/** Show a page of images at a time, filtered, ordered and laid out as the controls say; returns what opens an image. */
function startGallery(data) {
  const SHOWN = SMALL ? 3 : 12;
  const UNDECIDED = 255;
  const runStyles = find("gallery").dataset.colours.split(",");
  const control = (name) => find(`gallery-${name}`);
  const choices = (name, items) => {
    const chosen = Number(control(name).value);
    return [...items.keys()].filter((number) => chosen < 0 || number === chosen);
  };
  const nameLabel = (label) => (label === UNDECIDED ? "undecided" : data.classes[label] ?? `label ${label}`);
  const percent = (iou) => (iou === null ? "–" : (iou / 10).toFixed(1));
  const signed = (gain) => `${gain < 0 ? "−" : "+"}${percent(Math.abs(gain))}`;
  // Masks of predicted tags are no step on the way to the segmentation.
  const steps = [...data.kinds.keys()].filter((kind) => !data.kinds[kind][0].endsWith("_predicted_tags"));

  // A mask is a list of alternating labels and IoU, the IoU in tenths of a percent, -1 if unknown.
  for (const image of data.images) {
    image.masks = image.masks.map((kinds) => kinds.map((flat) => flat && readMask(flat)));
    image.labels = new Set(image.truth ?? []);
    for (const mask of image.masks.flat()) if (mask) for (const label of mask.keys()) image.labels.add(label);
  }

  function readMask(flat) {
    const ious = new Map();
    for (let at = 0; at < flat.length; at += 2) ious.set(flat[at], flat[at + 1] < 0 ? null : flat[at + 1]);
    return ious;
  }

  const mean = (values) => {
    const known = values.filter((value) => value !== null && value !== undefined);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  const score = (mask, label) => (label < 0 ? mean([...mask.values()]) : mask.get(label) ?? null);

  let chosen = []; // the filtered images with their IoU, in order
  let page = 0;
  let viewed = 0; // the position of the enlarged one

  function choose() {
    const [runs, kinds] = [choices("run", data.run_names), choices("kind", data.kinds)];
    const label = Number(control("class").value);
    const text = control("name").value.toLowerCase();
    const order = control("order").value;
    const changes = order === "gain" || order === "loss";
    const other = Number(control("run").value) > 0 ? Number(control("run").value) : data.run_names.length - 1;
    const scored = [];
    for (const image of data.images) {
      if (text && !image.id.toLowerCase().includes(text)) continue;
      const masks = runs.flatMap((run) => kinds.map((kind) => image.masks[run][kind])).filter(Boolean);
      if (kinds.length < data.kinds.length && !masks.length) continue;
      if (label >= 0 && !image.truth?.includes(label) && !masks.some((mask) => mask.has(label))) continue;
      const iou = mean(masks.map((mask) => score(mask, label)));
      const [before, after] = [0, other].map((run) => mean(kinds.map((kind) => image.masks[run][kind]).filter(Boolean).map((mask) => score(mask, label))));
      const gain = !changes || before === null || after === null ? null : after - before;
      scored.push([image, iou, gain]);
    }
    if (order !== "name") {
      const sign = order === "lowest" || order === "loss" ? 1 : -1;
      const key = ([, iou, gain]) => (changes ? gain : iou);
      // Images without a known IoU come last either way.
      scored.sort((one, two) => (key(one) === null) - (key(two) === null) || sign * (key(one) - key(two)));
    }
    chosen = scored;
    page = 0;
    show();
  }

  function show() {
    const pages = Math.max(1, Math.ceil(chosen.length / SHOWN));
    const of = data.images.length.toLocaleString("en");
    control("count").textContent = `${chosen.length.toLocaleString("en")} of ${of} image${data.images.length > 1 ? "s" : ""}`;
    const cards = chosen.slice(page * SHOWN, (page + 1) * SHOWN).map((card, at) => makeCard(...card, page * SHOWN + at));
    find("gallery").replaceChildren(...cards);
    find("gallery").querySelectorAll(".layers").forEach((layers) => watcher.observe(layers));
    control("pager").hidden = pages < 2;
    control("page").textContent = `page ${page + 1} of ${pages}`;
    control("previous").disabled = page === 0;
    control("next").disabled = page === pages - 1;
  }

  function turn(step) {
    page += step;
    show();
    find("examples").scrollIntoView();
    // A button that becomes disabled would lose the focus.
    const [same, other] = step < 0 ? ["previous", "next"] : ["next", "previous"];
    control(control(same).disabled ? other : same).focus({ preventScroll: true });
  }

  function makeCard(image, iou, gain, number) {
    const open = make("button", { type: "button", className: "plain", title: "Enlarge" }, image.id);
    open.addEventListener("click", () => view(number));
    const change = gain === null ? "" : `, ${signed(gain)} over ${data.run_names[0]}`;
    const heading = make("h3", {}, open, make("small", {}, ` IoU ${percent(iou)}${change}`));
    return make("article", {}, heading, makeLegend(image), makePictures(image));
  }

  function makeLegend(image) {
    const [runs, kinds] = [choices("run", data.run_names), choices("kind", data.kinds)];
    const labels = new Set(image.truth ?? []);
    for (const run of runs) for (const kind of kinds) for (const label of image.masks[run][kind]?.keys() ?? []) labels.add(label);
    labels.delete(0);
    const items = [...labels].sort((one, other) => one - other).map((label) => {
      const swatch = make("span", { className: label === UNDECIDED ? "colour striped" : "colour" });
      if (label !== UNDECIDED) swatch.style.background = data.colours[label] ?? "";
      const absent = image.truth && label !== UNDECIDED && !image.truth.includes(label);
      return make("li", {}, swatch, ` ${nameLabel(label)}`, ...(absent ? [make("small", {}, " (not in the truth)")] : []));
    });
    return make("ul", { className: "legend", "aria-label": "Colours" }, ...(items.length ? items : [make("li", {}, "only background")]));
  }

  function makePictures(image) {
    const runs = choices("run", data.run_names);
    const given = [makePicture(image, "", "photograph", null)];
    if (image.truth) given.push(makePicture(image, "truth.png", "truth", image.truth));
    const rows = runs.map((run) => {
      const kinds = choices("kind", data.kinds);
      const pictures = kinds.map((kind) => {
        const [name, mask] = [data.kinds[kind][1], image.masks[run][kind]];
        if (!mask) return make("p", { className: "quiet none" }, `no ${name}`);
        const picture = makePicture(image, `${run}-${data.kinds[kind][0]}.png`, name, [...mask.keys()], mask, data.run_names[run]);
        picture.querySelector("figcaption").append(...describeStep(image.masks[run], kind));
        return picture;
      });
      if (image.scores[run] && kinds.length === data.kinds.length) {
        pictures.unshift(makePicture(image, `${run}-scores.png`, "score map", null, null, data.run_names[run]));
      }
      const [colour, dash] = runStyles[run].split(" ");
      const swatch = make("span", { className: "line" });
      swatch.style.borderTop = `3px ${dash} ${colour}`;
      return make("div", { className: "of-run" }, make("h4", {}, swatch, ` ${data.run_names[run]}`), make("div", { className: "pictures" }, ...pictures));
    });
    const dataset = make("div", { className: "given" }, make("h4", {}, "dataset"), make("div", { className: "pictures" }, ...given));
    return make("div", { className: "example" }, dataset, make("div", { className: "runs" }, ...rows));
  }

  /** What a step gained or lost against the one before it, if both are known. */
  function describeStep(masks, kind) {
    const before = steps.slice(0, Math.max(steps.indexOf(kind), 0)).filter((step) => masks[step]).at(-1);
    if (before === undefined) return [];
    const label = Number(control("class").value);
    const [was, is] = [before, kind].map((step) => score(masks[step], label));
    if (was === null || is === null) return [];
    const title = `against the ${data.kinds[before][1]}`;
    return [" ", make("small", { title }, signed(is - was))];
  }

  function makePicture(image, file, name, labels, ious = null, run = "") {
    const folder = `pictures/examples/${encodeURIComponent(image.id)}/`;
    const size = { width: data.width, height: image.height };
    const shown = labels?.filter(Boolean).map(nameLabel).join(", ") || "only background";
    const of = `${name}${run && ` of ${run}`} for ${image.id}`;
    const alt = labels ? `${of}: ${shown}` : of;
    const photograph = make("img", { ...size, alt: file ? "" : alt, "data-src": `${folder}photograph.jpg` });
    const layers = make("div", { className: file ? "layers masked" : "layers" }, photograph);
    layers.style.aspectRatio = `${data.width} / ${image.height}`;
    if (file) layers.append(make("img", { ...size, alt, className: "mask", "data-src": folder + file }));
    const caption = make("figcaption", {}, name);
    if (ious) caption.append(" ", make("b", {}, percent(score(ious, Number(control("class").value)))));
    return make("figure", {}, layers, caption);
  }

  /** Enlarge an image by its id; returns whether the gallery has it. */
  function open(id) {
    const find = () => chosen.findIndex(([image]) => image.id === id);
    if (find() < 0) {
      [control("kind").value, control("class").value, control("name").value] = [-1, -1, ""];
      choose();
    }
    if (find() >= 0) view(find());
    return find() >= 0;
  }

  function view(number) {
    viewed = number;
    const [image, iou] = chosen[number];
    find("viewer-heading").replaceChildren(image.id, make("small", {}, ` IoU ${percent(iou)}, ${number + 1} of ${chosen.length}`));
    find("viewer-content").replaceChildren(makeLegend(image), makePictures(image), makeTable(image));
    find("viewer").querySelectorAll(".layers").forEach((layers) => watcher.observe(layers));
    find("viewer-previous").disabled = number === 0;
    find("viewer-next").disabled = number === chosen.length - 1;
    if (!find("viewer").open) find("viewer").showModal();
    keep("image", image.id);
  }

  /** The IoU of each label in one image. */
  function makeTable(image) {
    const masks = choices("run", data.run_names).flatMap((run) =>
      choices("kind", data.kinds).map((kind) => [`${data.run_names[run]}: ${data.kinds[kind][1]}`, image.masks[run][kind]]),
    ).filter(([, mask]) => mask);
    const labels = [...image.labels].filter((label) => masks.some(([, mask]) => mask.has(label))).sort((one, other) => one - other);
    const head = make("tr", {}, make("th", { scope: "col" }, "masks"), ...labels.map((label) => make("th", { scope: "col", className: "number" }, nameLabel(label))));
    const rows = masks.map(([name, mask]) =>
      make("tr", {}, make("th", { scope: "row" }, name), ...labels.map((label) => make("td", { className: "number" }, percent(mask.get(label) ?? null)))),
    );
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
    return make("div", { className: "scroll", role: "region", tabIndex: 0, "aria-label": "IoU of each label in percent" }, table);
  }

  const occurring = new Set(data.images.flatMap((image) => [...image.labels]));
  for (const [label, name] of data.classes.entries()) {
    if (label && occurring.has(label)) control("class").append(make("option", { value: label }, name));
  }
  const sliders = [...document.querySelectorAll('[data-control="opacity"]')]; // on the page, and in the viewer
  const fade = (share) => {
    document.documentElement.style.setProperty("--opacity", share / 100);
    for (const slider of sliders) {
      slider.value = share;
      slider.nextElementSibling.textContent = `${share}%`;
    }
  };
  for (const slider of sliders) slider.addEventListener("input", () => fade(slider.value));
  control("controls").hidden = false;
  control("controls").addEventListener("submit", (event) => event.preventDefault());
  control("controls").addEventListener("input", (event) => sliders.includes(event.target) || choose());
  control("previous").addEventListener("click", () => turn(-1));
  control("next").addEventListener("click", () => turn(1));
  const step = (by) => chosen[viewed + by] && view(viewed + by);
  find("viewer-previous").addEventListener("click", () => step(-1));
  find("viewer-next").addEventListener("click", () => step(1));
  find("viewer-close").addEventListener("click", () => find("viewer").close());
  find("viewer").addEventListener("close", () => keep("image", null));
  find("viewer").addEventListener("keydown", (event) => {
    if (sliders.includes(event.target)) return; // the arrow keys move the slider
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  fade(sliders[0].value);
  if (SMALL && data.run_names.length > 1) control("run").value = data.run_names.length - 1; // the last one alone
  choose();
  return { open, has: new Set(data.images.map((image) => image.id)) };
}
