// The report's links: what the reader chose stands behind the # of the address, which can be sent.

const isState = () => location.hash.includes("="); // else it names a section
const address = new URLSearchParams(isState() ? location.hash.slice(1) : "");

/** Write a choice into the address; null takes it out. */
function keep(name, value) {
  if (value === null) address.delete(name);
  else address.set(name, value);
  history.replaceState(null, "", `${location.pathname}${location.search}${address.size ? `#${address}` : ""}`);
}

/** Take the choices of a form from the address, and keep those that follow. */
function linkControls(form) {
  const initial = new Map();
  for (const control of form.querySelectorAll("select[id], input[id]")) {
    const before = control.value;
    initial.set(control.id, before);
    if (!address.has(control.id)) continue;
    control.value = address.get(control.id);
    if (control.value !== address.get(control.id)) control.value = before; // a report of other runs
    control.dispatchEvent(new Event("input", { bubbles: true }));
  }
  form.addEventListener("input", ({ target: { id, value } }) => {
    if (initial.has(id)) keep(id, value === initial.get(id) ? null : value);
  });
}

// The scatter links its own controls, once it has its images.
document.querySelectorAll("form.controls:not(#scatter-controls)").forEach(linkControls);
const [first] = address.keys();
find(first)?.closest("section")?.scrollIntoView();
if (address.has("image")) gallery?.open(address.get("image"));
addEventListener("hashchange", () => isState() && location.reload());
