// Numbers as people write them, and units. A conversion is canonical = factor × (value − zero), as in henaw.data.units.

const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3})?$/i;
const DECIMAL_COMMA = /^([+-]?\d*),(\d+)$/;
const THOUSANDS = /^[+-]?[1-9]\d{0,2},\d{3}$/;

/** What stands for a value that was not measured: what `henaw score` reads as missing. */
export const MISSING = new Set(["", ".", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]);

/**
 * The number that `text` is: {value}, {missing: true}, or {fault}: why it is none.
 * "5,1" is 5.1. "1,234" could be two numbers and is refused, unless `comma` says that commas are decimal.
 */
export function parseNumber(text, comma = false) {
  const plain = text.trim().replace(/[\u2212\u2013]/g, "-");
  if (MISSING.has(plain)) return { missing: true };
  if (/^[<>≤≥~]/.test(plain)) return { fault: "is a limit, not a number; enter a number, or leave it empty" };
  if (!comma && THOUSANDS.test(plain)) {
    return { fault: "could mean two numbers; write it without a comma, or with a point for decimals" };
  }
  const pointed = plain.replace(DECIMAL_COMMA, "$1.$2");
  if (!NUMBER.test(pointed)) return { fault: "is not a number; expected digits, such as 5.1" };
  const value = Number(pointed);
  return Number.isFinite(value) ? { value } : { fault: "is larger than any number that can be sent" };
}

export const hasDecimalComma = (text) => DECIMAL_COMMA.test(text.trim());
export const hasClearDecimalComma = (text) => hasDecimalComma(text) && !THOUSANDS.test(text.trim());

export const toCanonical = (value, unit) => unit.factor * (value - unit.zero);
export const fromCanonical = (value, unit) => value / unit.factor + unit.zero;

/** `value` with at most `digits` significant digits, never in exponential form. */
export function shown(value, digits = 3) {
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** A range in `unit`, rounded inwards, so that what is shown as inside is inside. */
export function shownRange([low, high], unit) {
  const ends = [roundedTo(fromCanonical(low, unit), Math.ceil), roundedTo(fromCanonical(high, unit), Math.floor)];
  return `${shown(ends[0], 6)} to ${shown(ends[1], 6)}`;
}

function roundedTo(value, round) {
  if (value === 0) return 0;
  const step = 10 ** (Math.floor(Math.log10(Math.abs(value))) - 2);
  const steps = value / step;
  // what is a round number already must not be moved by the last bit of a division
  return (Math.abs(steps - Math.round(steps)) < 1e-9 ? Math.round(steps) : round(steps)) * step;
}

export const isWithin = (value, [low, high]) => value >= low && value <= high;

/** A unit as it is printed: 10^9/L with a raised exponent. */
export function shownUnit(unit) {
  return unit.replace(/\^(\d+)/g, (_, digits) => [...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join(""));
}

export const years = (value) => value.toFixed(1).replace("-", "\u2212").replace("\u22120.0", "0.0");
export const signed = (value) => (Number(value.toFixed(1)) > 0 ? "+" : "") + years(value);

export function percent(value) {
  const hundredths = value * 100;
  if (hundredths > 0 && hundredths < 0.1) return "under 0.1 %";
  return `${hundredths.toFixed(hundredths < 10 ? 1 : 0)} %`;
}
