// The report's scatter: each image's IoU under two series of masks; a click opens its photograph in the gallery.

function startScatter(spec, gallery) {
  const [figure, across, up, said] = ["chart", "across", "up", "said"].map((name) => find(`scatter-${name}`));
  let data = null;
  let chart = null;

  function fill() {
    const [first, second] = [across, up].map((control) => data.series[Number(control.value)]);
    const rows = data.images[first.split].map((image, at) => ({ image, first: first.ious[at] / 10, second: second.ious[at] / 10 }));
    const known = rows.filter((row) => row.first >= 0 && row.second >= 0);
    const counts = { gain: 0, loss: 0, same: 0 };
    for (const row of known) {
      row.gain = Math.round(10 * (row.second - row.first)) / 10;
      row.change = row.gain > 0 ? "gain" : row.gain < 0 ? "loss" : "same";
      row.pictured = gallery?.has.has(row.image) ?? false;
      counts[row.change] += 1;
    }
    const [all, gain, loss, same] = [known.length, ...Object.values(counts)].map((count) => count.toLocaleString("en"));
    said.textContent = `${all} images: ${gain} gain, ${loss} lose, ${same} stay.`;
    spec.datasets.images = known;
    for (const { encoding } of spec.layer) {
      [encoding.x.title, encoding.y.title] = [first, second].map(({ run, masks }) => `${run}: ${masks}`);
    }
  }

  /** Offer as the second series those of the same split as the first: only they are of the same images. */
  function offer() {
    const { split } = data.series[Number(across.value)];
    const kept = up.value;
    const fit = [...data.series.keys()].filter((at) => data.series[at].split === split);
    up.replaceChildren(...fit.map((at) => make("option", { value: at }, `${data.series[at].run}: ${data.series[at].masks}`)));
    up.value = fit.some((at) => String(at) === kept) ? kept : choose(fit);
  }

  /** The same masks of the last run; where there is one run, other masks. */
  function choose(fit) {
    const first = data.series[Number(across.value)];
    const others = fit.filter((at) => data.series[at] !== first);
    return others.findLast((at) => data.series[at].masks === first.masks) ?? others[0] ?? fit[0];
  }

  const seen = new IntersectionObserver(async ([{ isIntersecting }]) => {
    if (!isIntersecting) return;
    seen.disconnect();
    await loadScript("images.js");
    data = globalThis.images;
    across.append(...data.series.map(({ run, masks }, value) => make("option", { value }, `${run}: ${masks}`)));
    offer();
    fill();
    find("scatter-controls").hidden = false;
    chart = new Chart(figure, spec, ({ image }) => {
      if (image && !gallery?.open(image)) said.textContent = `${image} is not in the gallery, which shows the images that evaluate.examples keeps.`;
    });
    linkControls(find("scatter-controls"));
  });
  seen.observe(figure);
  find("scatter-controls").addEventListener("submit", (event) => event.preventDefault());
  find("scatter-controls").addEventListener("input", () => {
    offer();
    fill();
    chart.change();
  });
}
