// A file of people: chosen or dropped, checked here, sent in parts without a column that the model does not read.

import { askMany, Problem } from "./api.js";
import { BadFile, extended, Inspection, layoutOf, readText, rowsOf, sentCells } from "./csv.js";
import { element } from "./dom.js";
import { coverageChoice } from "./form.js";
import { shownRange, shownUnit } from "./numbers.js";
import { problemText, reason } from "./words.js";

const MOST_AT_ONCE = 1000;
const BYTES_A_CELL = 26;
const LARGEST_FILE = 100e6;
const PAUSE_EVERY = 2000;
const SEXES = ["female", "male"];

export class Batch {
  /** Fill `place`; `onProblem(problem)` is told of a key that is not accepted. */
  constructor(place, model, onProblem) {
    Object.assign(this, { model, onProblem, stopper: null, address: null });
    this.input = element("input", { type: "file", id: "csv", accept: ".csv,.tsv,.txt,text/csv", "aria-describedby": "csv-help" });
    this.coverage = coverageChoice("file-coverage", model.coverage);
    this.drop = element("div", { class: "drop" },
      element("label", { for: "csv" }, "Choose a CSV file, or drop it here"), this.input,
      element("p", { id: "csv-help", class: "hint" },
        "Only the model's columns leave this browser. The result has your columns untouched, and the answers after them."));
    this.start = element("button", { type: "button", id: "file-start" }, "Estimate the file");
    this.stop = element("button", { type: "button", class: "quiet", hidden: true }, "Stop");
    this.progress = element("progress", { max: 1, value: 0, hidden: true, "aria-label": "Progress of the file" });
    this.status = element("p", { id: "file-status", role: "status" });
    this.result = element("div", { id: "file-result" });
    place.replaceChildren(this.drop,
      element("div", { class: "row end" }, element("label", { for: "file-coverage" }, "Interval that holds"), this.coverage, this.start, this.stop),
      this.progress, this.status, this.result, columns(model));
    this.start.onclick = () => this.run();
    this.stop.onclick = () => this.stopper?.abort();
    this.input.onchange = () => this.clear();
    takeDrops(this.drop, (files) => {
      this.input.files = files;
      this.clear();
    });
  }

  clear() {
    if (this.address !== null) URL.revokeObjectURL(this.address);
    this.address = null;
    this.status.textContent = "";
    this.result.replaceChildren();
  }

  async run() {
    this.clear();
    const [file] = this.input.files;
    if (!file || file.size > LARGEST_FILE) {
      this.status.textContent = file ? "This file is over 100 MB; the command “henaw score” takes files of any size." : "Choose a file first.";
      this.input.focus();
      return;
    }
    this.stopper = new AbortController();
    this.working(true);
    try {
      this.show(await this.answered(file, this.stopper.signal), file.name);
    } catch (error) {
      this.fail(error);
    } finally {
      this.working(false);
    }
  }

  working(busy) {
    this.start.disabled = busy;
    this.stop.hidden = this.progress.hidden = !busy;
    this.progress.value = 0;
  }

  /** Look through the whole file before anything is sent, then send it part by part. */
  async answered(file, signal) {
    const { inputs } = this.model;
    const outputs = [...this.model.outputs, "henaw_model"];
    const { text, marked } = await readText(file);
    const layout = layoutOf(text, inputs, outputs);
    const inspection = new Inspection(layout, inputs);
    for (const record of rowsOf(text, layout)) {
      inspection.see(record);
      if (inspection.rows % PAUSE_EVERY === 0) await breath(signal);
    }
    const { rows, comma } = inspection.result();
    const found = { rows, counts: { ok: 0, warn: 0, abstain: 0 }, reasons: new Map(), models: new Set(), parts: [] };
    found.parts.push(`${marked ? "\ufeff" : ""}${extended(layout.header, outputs, layout, comma)}${layout.end}`);
    const atOnce = Math.max(1, Math.min(MOST_AT_ONCE, this.model.max_rows, Math.floor((this.model.max_bytes - 4096) / (BYTES_A_CELL * inputs.length))));
    let [part, done] = [[], 0];
    const send = async () => {
      await this.sent(part, layout, comma, outputs, found, signal);
      done += part.length;
      part = [];
      this.tell(done, rows);
    };
    this.tell(0, rows);
    for (const record of rowsOf(text, layout)) {
      part.push(record);
      if (part.length === atOnce) await send();
    }
    if (part.length) await send();
    return found;
  }

  async sent(part, layout, comma, outputs, found, signal) {
    const data = part.map((record) => sentCells(record, layout, this.model.inputs, SEXES));
    const form = { dataframe_split: { columns: this.model.inputs, data }, params: { coverage: Number(this.coverage.value) } };
    const { reply, model } = await askMany(form, signal, (seconds) => {
      this.status.textContent = `The server is busy; going on in ${seconds} s.`;
    });
    found.models.add(model);
    const lines = reply.predictions.map((answer, index) => {
      found.counts[answer.status] += 1;
      for (const flag of answer.flags === "" ? [] : answer.flags.split(";")) found.reasons.set(flag, (found.reasons.get(flag) ?? 0) + 1);
      const cells = outputs.map((name) => (name === "henaw_model" ? model : answer[name]));
      return extended(part[index].raw, cells, layout, comma) + layout.end;
    });
    found.parts.push(lines.join(""));
  }

  tell(done, rows) {
    this.progress.value = done / rows;
    // a screen reader is told of every quarter, not of every part
    const quarter = Math.floor((4 * done) / rows);
    if (done === 0 || quarter !== this.quarter) this.status.textContent = `${done.toLocaleString("en")} of ${rows.toLocaleString("en")} rows answered.`;
    this.quarter = quarter;
  }

  show({ rows, counts, reasons, models, parts }, name) {
    const size = (count, word) => `${count.toLocaleString("en")} ${word}`;
    this.status.textContent = `Done: ${size(rows, rows === 1 ? "row" : "rows")}; ${size(counts.ok, "answered")}, ${size(counts.warn, "to read with caution")}, ${size(counts.abstain, "declined")}.`;
    this.address = URL.createObjectURL(new Blob(parts, { type: "text/csv;charset=utf-8" }));
    const listed = [...reasons].sort(([, one], [, other]) => other - one);
    this.result.replaceChildren(...[
      element("p", {}, element("a", { class: "button", href: this.address, download: `${name.replace(/\.[^.]*$/, "")}-henaw.csv` }, "Download the result")),
      models.size > 1 ? element("p", {}, `Several versions answered (${[...models].join(", ")}); the column henaw_model says which.`) : null,
      listed.length ? element("details", {}, element("summary", {}, "Why rows were declined or remarked on"),
        element("ul", {}, listed.map(([flag, count]) => element("li", {}, `${size(count, count === 1 ? "row" : "rows")}: ${reason(flag, this.model).text}`)))) : null,
    ].filter((each) => each !== null));
  }

  fail(error) {
    if (error.name === "AbortError") {
      this.status.textContent = "Stopped. No result was made.";
    } else if (error instanceof BadFile) {
      this.status.textContent = "Nothing was sent: the file has to be mended first. Row 1 is the first after the header.";
      const more = error.more ? [element("li", {}, `… and ${error.more.toLocaleString("en")} more.`)] : [];
      this.result.replaceChildren(element("ul", { class: "faults" }, error.faults.map((fault) => element("li", {}, told(fault))), more));
    } else {
      this.status.textContent = error instanceof Problem ? `No result was made. ${problemText(error)}` : "No result was made: this page has failed.";
      if (error instanceof Problem) this.onProblem(error);
      else throw error;
    }
  }
}

function told({ row, column, text }) {
  const place = [row === undefined ? null : `Row ${row}`, column === undefined ? null : `column ${column}`].filter((each) => each !== null);
  return place.length ? `${place.join(", ").replace(/^c/, "C")}: ${text}.` : text;
}

/** Let the page breathe: what was clicked is seen, what was drawn appears. */
async function breath(signal) {
  await new Promise((resolve) => setTimeout(resolve));
  signal.throwIfAborted();
}

function takeDrops(place, take) {
  const over = (shown) => (event) => {
    event.preventDefault();
    place.classList.toggle("over", shown);
  };
  place.addEventListener("dragover", over(true));
  place.addEventListener("dragleave", over(false));
  place.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  });
}

/** A column's name that may be broken after an underscore. */
const breakable = (name) => name.split(/(?<=_)/).map((part) => [part, element("wbr")]);

function columns(model) {
  const described = [
    ...model.markers.map(({ name, title, units, plausible }) => [name, `${title}, ${shownUnit(units[0].unit)}, ${shownRange(plausible, units[0])}`]),
    ["sex", "female or male"],
    ["age_years", "Age, years"],
  ];
  const template = element("button", { type: "button", class: "quiet" }, "Download an empty template");
  template.onclick = () => {
    const address = URL.createObjectURL(new Blob([`${model.inputs.join(",")}\n`], { type: "text/csv" }));
    element("a", { href: address, download: "henaw-template.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  return element("details", {}, element("summary", {}, "The columns it needs"),
    element("p", {}, "One row a person, in these units, in any order. Other columns may stand beside them. An empty cell was not measured."),
    element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Column"), element("th", { scope: "col" }, "Unit and plausible range"))),
      element("tbody", {}, described.map(([name, text]) => element("tr", {}, element("th", { scope: "row" }, element("code", {}, breakable(name))), element("td", {}, text))))),
    template);
}
