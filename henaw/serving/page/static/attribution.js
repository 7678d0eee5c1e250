// What moved the age: a table whose bars are a picture of its numbers.

import { element, shape } from "./dom.js";
import { fromCanonical, shown, shownUnit, signed } from "./numbers.js";
import { ORGANS } from "./words.js";

const BAR = { width: 120, height: 14 };

/** Table of markers, the largest share first; `values` and `units` are what was entered. */
export function markerTable(model, attribution, values, units) {
  const shares = attribution.by_marker;
  const measured = model.markers.filter(({ name }) => values[name] !== null);
  const rest = model.markers.filter(({ name }) => values[name] === null);
  measured.sort((one, other) => Math.abs(shares[other.name]) - Math.abs(shares[one.name]));
  const largest = Math.max(...measured.map(({ name }) => Math.abs(shares[name])), 0.1);
  const rows = measured.map(({ name, title }) =>
    row(title, comparison(values[name], attribution.medians[name], units[name]), shares[name], largest));
  rows.push(...rest.map(({ title }) => element("tr", {},
    element("th", { scope: "row" }, title), element("td", { class: "muted" }, "not given"))));
  return table("Share of each marker, in years", "Marker", rows);
}

/** The same by organ system. */
export function organTable(attribution) {
  const shares = Object.entries(attribution.by_organ);
  const largest = Math.max(...shares.map(([, share]) => Math.abs(share)), 0.1);
  const rows = shares.map(([organ, share]) => row(ORGANS[organ] ?? organ, null, share, largest));
  return table("Share of each organ system, in years", "Organ system", rows);
}

function table(caption, first, rows) {
  const head = element("tr", {}, element("th", { scope: "col" }, first), element("th", { scope: "col" }, "Years"));
  return element("table", { class: "shares" }, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, rows));
}

function row(title, below, share, largest) {
  return element("tr", {},
    element("th", { scope: "row" }, title, below === null ? null : element("span", { class: "below" }, below)),
    element("td", {}, element("div", { class: "share" }, bar(share / largest), element("span", { class: "figure" }, signed(share)))));
}

function comparison(value, median, unit) {
  const own = `${shown(fromCanonical(value, unit), 4)} ${shownUnit(unit.unit)}`;
  return median === null ? own : `${own}; usual ${shown(fromCanonical(median, unit))}`;
}

/** To the right of the middle: older; to the left: younger. */
function bar(part) {
  const middle = BAR.width / 2;
  const length = Math.max(0.5, Math.abs(part) * (middle - 1));
  return shape("svg", { class: "bar", width: BAR.width, height: BAR.height, viewBox: `0 0 ${BAR.width} ${BAR.height}`, "aria-hidden": "true" },
    shape("line", { x1: middle, x2: middle, y1: 0, y2: BAR.height }),
    shape("rect", { class: part < 0 ? "younger" : "older", x: part < 0 ? middle - length : middle, y: 2, width: length, height: BAR.height - 4 }));
}
