// The predictive distribution as a picture: bars, the interval, the median, the age, and where each member stands.

import { shape } from "./dom.js";
import { years } from "./numbers.js";

const HEIGHT = 132;
const MARGIN = 14;
const TOP = 40;
const STRIP = 34;
const AXIS = 24;
const STEPS = [0.5, 1, 2]; // years a bar
const NARROWEST = 6;

/**
 * The picture, `width` pixels wide.
 * @param {{quantiles: number[], members: number[], lower: number, upper: number, median: number, age: number}} found in years
 */
export function distributionPicture(found, width, title) {
  const { quantiles, members, lower, upper, median, age } = found;
  const low = Math.floor(Math.min(quantiles[0], lower, age, ...members) - 1);
  const high = Math.ceil(Math.max(quantiles.at(-1), upper, age, ...members) + 1);
  const x = (value) => MARGIN + ((value - low) / (high - low)) * (width - 2 * MARGIN);
  const base = TOP + HEIGHT;
  const bars = binned(quantiles, low, high, STEPS.find((step) => (width * step) / (high - low) >= NARROWEST) ?? 5);
  const tallest = Math.max(...bars.map((bar) => bar.mass));
  const outline = (side) => bars.flatMap((bar) => clipped(bar, side, lower, upper)).map((bar) => {
    const height = (bar.mass / tallest) * HEIGHT;
    return shape("rect", { x: x(bar.from), y: base - height, width: Math.max(0.5, x(bar.to) - x(bar.from) - 0.75), height });
  });
  return shape("svg", { class: "distribution", role: "img", width, height: base + AXIS + STRIP, viewBox: `0 0 ${width} ${base + AXIS + STRIP}`, "aria-label": title },
    shape("g", { class: "outside" }, outline("outside")),
    shape("g", { class: "inside" }, outline("inside")),
    [median, age].map((at) => line(x(at), 36, base, "halo")),
    line(x(median), 18, base, "median"),
    label(x(median), 12, `${years(median)} estimate`, "median-label", width),
    line(x(age), 36, base, "age"),
    label(x(age), 31, `${shownAge(age)} age`, "age-label", width),
    axis(low, high, x, base, width),
    members.map((member) => shape("line", { class: "member", x1: x(member), x2: x(member), y1: base + AXIS + 6, y2: base + AXIS + STRIP - 8 })),
  );
}

/** Probability of each bin of `step` years, where the distribution function is straight between quantiles. */
export function binned(quantiles, low, high, step) {
  const cdf = (value) => {
    const above = quantiles.findIndex((quantile) => quantile > value);
    if (above === 0) return 0.01;
    if (above < 0) return 0.99;
    const [left, right] = [quantiles[above - 1], quantiles[above]];
    return (above + (value - left) / (right - left)) / 100;
  };
  const bars = [];
  for (let from = low; from < high; from += step) {
    bars.push({ from, to: from + step, mass: cdf(from + step) - cdf(from) });
  }
  return bars;
}

/** The parts of a bar on one side of the interval's ends. */
function clipped(bar, side, lower, upper) {
  const cuts = side === "inside"
    ? [[Math.max(bar.from, lower), Math.min(bar.to, upper)]]
    : [[bar.from, Math.min(bar.to, lower)], [Math.max(bar.from, upper), bar.to]];
  return cuts.filter(([from, to]) => to > from).map(([from, to]) => ({ ...bar, from, to }));
}

function line(at, from, to, kind) {
  return shape("line", { class: kind, x1: at, x2: at, y1: from, y2: to });
}

function label(at, y, text, kind, width) {
  const half = text.length * 3.4;
  const inside = Math.min(width - half, Math.max(half, at));
  return shape("text", { class: kind, x: inside, y, "text-anchor": "middle" }, text);
}

function axis(low, high, x, base, width) {
  const step = [1, 2, 5, 10, 20].find((each) => (each / (high - low)) * width >= 36) ?? 50;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(tick);
  return shape("g", { class: "axis" },
    shape("line", { x1: x(low), x2: x(high), y1: base, y2: base }),
    ticks.map((tick) => [
      shape("line", { x1: x(tick), x2: x(tick), y1: base, y2: base + 4 }),
      shape("text", { x: x(tick), y: base + 17, "text-anchor": "middle" }, String(tick)),
    ]));
}

const shownAge = (age) => (Number.isInteger(age) ? String(age) : years(age));
