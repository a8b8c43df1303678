// What every page shares: making elements, the colour scheme, and pictures that load when they are seen. Names come from
// users: they only ever become text or attributes, never markup.
"use strict";

const find = (id) => document.getElementById(id);

/** Make an element with properties, attributes (names with a hyphen) and children (elements or text). */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

// The colour scheme: the system's, or the reader's choice.
{
  const names = { "": "as the system", light: "light", dark: "dark" };
  const button = find("scheme");
  const show = (scheme) => {
    document.documentElement.dataset.scheme = scheme;
    button.textContent = `Colours: ${names[scheme]}`;
    document.dispatchEvent(new Event("scheme"));
  };
  let kept = "";
  try {
    kept = localStorage.getItem("rca-report-scheme") ?? "";
  } catch {
    // Without storage, the choice lasts as long as the page.
  }
  show(kept in names ? kept : "");
  button.hidden = false;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("scheme")));
  button.addEventListener("click", () => {
    const order = Object.keys(names);
    const next = order[(order.indexOf(document.documentElement.dataset.scheme) + 1) % order.length];
    show(next);
    try {
      localStorage.setItem("rca-report-scheme", next);
    } catch {
      // As above.
    }
  });
}

/** Load a script beside the page, once. */
const scripts = new Map();
function loadScript(src) {
  if (!scripts.has(src)) {
    scripts.set(src, new Promise((resolve, reject) => document.head.append(make("script", { src, onload: resolve, onerror: reject }))));
  }
  return scripts.get(src);
}

// On a small screen what is long begins closed.
const SMALL = matchMedia("(max-width: 40rem)").matches;
if (SMALL) document.querySelectorAll("details.fold").forEach((part) => (part.open = false));

// Pictures load when they come into view; a browser's own `loading=lazy` also loads those far below.
const load = (image) => {
  image.src = image.dataset.src;
  image.removeAttribute("data-src");
};
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    for (const image of target.matches("img") ? [target] : target.querySelectorAll("img[data-src]")) load(image);
  }
});
document.querySelectorAll("img[data-src]").forEach((image) => watcher.observe(image));
addEventListener("beforeprint", () => document.querySelectorAll("img[data-src]").forEach(load));
