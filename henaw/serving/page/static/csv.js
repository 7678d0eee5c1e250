// CSV: reading records without changing a character of them, and finding the model's columns among theirs.

import { hasClearDecimalComma, hasDecimalComma, parseNumber } from "./numbers.js";

const DELIMITERS = [",", ";", "\t"];
const MOST_FAULTS = 20;

/** What is wrong with a file; `faults` are {row, column, text} or {text}, never with a value. */
export class BadFile extends Error {
  constructor(faults, more = 0) {
    super("the file cannot be answered");
    Object.assign(this, { faults, more });
  }
}

/** The text of a file that is UTF-8, and whether it began with a byte order mark, which spreadsheets look for. */
export async function readText(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const marked = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  try {
    return { marked, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch {
    throw new BadFile([{ text: "The file is not text in UTF-8. Save it as “CSV UTF-8”." }]);
  }
}

/** Records of `text`: {cells, raw}, where `raw` is the record as it stands. Empty lines are none. */
export function* records(text, delimiter) {
  let at = 0;
  while (at < text.length) {
    const end = lineEnd(text, at);
    const line = text.slice(at, end);
    const found = line.includes('"') ? quoted(text, at, delimiter) : { cells: line.split(delimiter), end };
    if (found.end > at) yield { cells: found.cells, raw: text.slice(at, found.end) };
    at = found.end + (text.startsWith("\r\n", found.end) ? 2 : 1);
  }
}

function lineEnd(text, from) {
  const feed = text.indexOf("\n", from);
  const end = feed < 0 ? text.length : feed;
  return text[end - 1] === "\r" && end > from ? end - 1 : end;
}

/** A record with quotes: a quoted cell may hold delimiters, doubled quotes and line ends. */
function quoted(text, start, delimiter) {
  const cells = [];
  let at = start;
  for (;;) {
    if (text[at] === '"') {
      let close = at + 1;
      while ((close = text.indexOf('"', close)) >= 0 && text[close + 1] === '"') close += 2;
      if (close < 0) throw new BadFile([{ text: "A quotation mark is opened and never closed." }]);
      cells.push(text.slice(at + 1, close).replaceAll('""', '"'));
      at = close + 1;
    } else {
      const end = Math.min(lineEnd(text, at), indexOr(text, delimiter, at));
      cells.push(text.slice(at, end));
      at = end;
    }
    if (text[at] !== delimiter) break;
    at += 1;
  }
  const end = lineEnd(text, at);
  if (end !== at) throw new BadFile([{ text: "A quotation mark stands where none can be: inside a cell, or before its end." }]);
  return { cells, end };
}

function indexOr(text, delimiter, from) {
  const found = text.indexOf(delimiter, from);
  return found < 0 ? text.length : found;
}

/**
 * How a file is laid out: delimiter, header, where each of `inputs` stands.
 * Throws BadFile where a column is missing or repeated, or has the name of one of `outputs`.
 */
export function layoutOf(text, inputs, outputs) {
  const headers = DELIMITERS.map((delimiter) => ({ delimiter, header: records(text, delimiter).next().value }));
  if (!headers[0].header) throw new BadFile([{ text: "The file is empty." }]);
  const known = ({ header }) => header.cells.filter((cell) => inputs.includes(cell.trim())).length;
  const { delimiter, header } = headers.reduce((best, each) => (known(each) > known(best) ? each : best));
  const names = header.cells.map((cell) => cell.trim());
  const faults = [
    ...inputs.filter((name) => !names.includes(name)).map((name) => ({ column: name, text: "is missing; where it was not measured, leave its cells empty" })),
    ...inputs.filter((name) => names.indexOf(name) !== names.lastIndexOf(name)).map((name) => ({ column: name, text: "stands more than once" })),
    ...outputs.filter((name) => names.includes(name)).map((name) => ({ column: name, text: "has the name of a column of the answer; rename it" })),
  ];
  if (faults.length) throw new BadFile(faults);
  const feed = text.indexOf("\n");
  return {
    delimiter, header: header.raw, width: names.length, positions: inputs.map((name) => names.indexOf(name)),
    end: feed > 0 && text[feed - 1] === "\r" ? "\r\n" : "\n",
  };
}

/** Rows after the header. */
export function* rowsOf(text, layout) {
  const all = records(text, layout.delimiter);
  all.next();
  yield* all;
}

/** Looks at every row once; `result()` says how many there are and whether commas are decimal, or throws BadFile. */
export class Inspection {
  constructor(layout, inputs) {
    Object.assign(this, { layout, inputs, rows: 0, faults: [], more: 0, commas: 0, clear: 0, firstComma: null });
  }

  see({ cells }) {
    this.rows += 1;
    if (cells.length !== this.layout.width) {
      this.add({ row: this.rows, text: `has ${cells.length} cells; expected ${this.layout.width}, as in the header` });
      return;
    }
    this.inputs.forEach((name, index) => {
      if (name === "sex") return;
      const cell = cells[this.layout.positions[index]];
      if (cell.includes(",") && hasDecimalComma(cell)) {
        this.commas += 1;
        this.clear += hasClearDecimalComma(cell);
        this.firstComma ??= { row: this.rows, column: name };
      }
      const { fault } = parseNumber(cell, true);
      if (fault) this.add({ row: this.rows, column: name, text: fault });
    });
  }

  add(fault) {
    if (this.faults.length < MOST_FAULTS) this.faults.push(fault);
    else this.more += 1;
  }

  result() {
    if (!this.rows) throw new BadFile([{ text: "The file has a header and no rows." }]);
    if (this.commas && !this.clear) {
      this.add({ ...this.firstComma, text: "has a comma that could part decimals or thousands; write numbers with a point" });
    }
    if (this.faults.length) throw new BadFile(this.faults, this.more);
    return { rows: this.rows, comma: this.commas > 0 };
  }
}

/** The model's cells of a row, in the order of `inputs`, as they are sent; nothing else of the row is. */
export function sentCells({ cells }, layout, inputs, sexes) {
  return inputs.map((name, index) => {
    const cell = cells[layout.positions[index]];
    if (name === "sex") return sexes.includes(cell) ? cell : null;
    return parseNumber(cell, true).value ?? null;
  });
}

/** A record with the answer's cells after its own. */
export function extended(raw, cells, layout, comma) {
  return [raw, ...cells.map((cell) => written(cell, layout.delimiter, comma))].join(layout.delimiter);
}

function written(cell, delimiter, comma) {
  if (cell === null) return "";
  if (typeof cell === "number") return comma && delimiter !== "," ? String(cell).replace(".", ",") : String(cell);
  return cell.includes(delimiter) || cell.includes('"') ? `"${cell.replaceAll('"', '""')}"` : cell;
}
