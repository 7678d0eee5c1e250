// The form about one person, built from the model's signature.

import { afterPress, element } from "./dom.js";
import { fromCanonical, isWithin, parseNumber, shown, shownRange, shownUnit, toCanonical } from "./numbers.js";
import { ORGANS } from "./words.js";

const AGE = "age_years";
const SEXES = { female: "Female", male: "Male" };
export const COVERAGES = [0.5, 0.8, 0.9, 0.95, 0.99];

export class PersonForm {
  /** Fill `form`; `kept` is what an earlier form for another version held (`kept()`). */
  constructor(form, model, kept = {}) {
    this.model = model;
    this.age = ageField(model);
    this.markers = model.markers.map((marker) => new MarkerField(marker));
    this.sex = sexField();
    this.coverage = coverageChoice("coverage", model.coverage);
    form.replaceChildren(
      element("fieldset", {}, element("legend", {}, "Person"), element("div", { class: "fields" }, this.sex.box, this.age.box)),
      element("div", { class: "groups" }, groups(this.markers)),
      element("div", { class: "row end" },
        element("label", { for: "coverage" }, "Interval that holds"), this.coverage,
        element("button", { type: "submit", id: "submit" }, "Estimate"),
        element("button", { type: "reset", class: "quiet" }, "Clear")),
      element("p", { id: "form-status", role: "status" }),
    );
    this.waiting = [];
    form.onchange = (event) => this.changed(event.target);
    // the event comes before the fields are emptied
    form.onreset = () => setTimeout(() => {
      this.fields().forEach((field) => field.cleared());
      this.showUsual();
    });
    this.restore(kept);
    this.showUsual();
  }

  changed(target) {
    if (target.name === "sex" || target === this.age.input) this.showUsual();
    const field = this.fields().find(({ box }) => box.contains(target));
    if (field === undefined) return;
    this.waiting.push(field);
    afterPress(() => this.waiting.splice(0).forEach((each) => each.check()));
  }

  fields() {
    return [this.sex, this.age, ...this.markers];
  }

  /** The row in canonical units, or null after naming what is wrong and going to the first of it. */
  row() {
    this.waiting = [];
    const wrong = this.fields().filter((field) => !field.check(true));
    if (wrong.length) {
      wrong[0].focus();
      return null;
    }
    const markers = this.markers.map((field) => [field.marker.name, field.canonical()]);
    return { ...Object.fromEntries(markers), sex: this.sex.value(), [AGE]: this.age.canonical() };
  }

  field(name) {
    return { sex: this.sex, [AGE]: this.age }[name] ?? this.markers.find((field) => field.marker.name === name);
  }

  /** What is usual at this sex and age, beside each field, once both are known. */
  showUsual() {
    const medians = usual(this.model, this.sex.value(), this.age.canonical());
    this.markers.forEach((field, position) => field.showUsual(medians?.[position] ?? null));
  }

  kept() {
    const texts = this.markers.map((field) => [field.marker.name, [field.input.value, field.unit().unit]]);
    return { ...Object.fromEntries(texts), sex: this.sex.value(), [AGE]: [this.age.input.value] };
  }

  restore(kept) {
    if (kept.sex) this.sex.box.querySelector(`[value=${kept.sex}]`).checked = true;
    for (const field of [this.age, ...this.markers]) {
      const [text, unit] = kept[field.marker.name] ?? ["", null];
      field.input.value = text;
      field.choose(unit);
    }
  }
}

/** The reference medians (m) of a sex and age; null where either is unknown. */
function usual(model, sex, age) {
  if (sex === null || age === null || !isWithin(age, model.ages.possible)) return null;
  return model.reference[sex][model.reference.edges.filter((edge) => edge <= age).length];
}

/** A field for a number: label, input, unit, what is plausible, and what is wrong. */
class NumberField {
  constructor(marker, required) {
    this.marker = marker;
    this.required = required;
    const id = `field-${marker.name}`;
    this.hint = element("p", { id: `${id}-hint`, class: "hint" });
    this.note = element("p", { id: `${id}-note`, class: "fault" });
    this.input = element("input", {
      id, type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", maxlength: 64,
      "aria-describedby": `${id}-unit ${id}-hint ${id}-note`, "aria-required": required ? "true" : null,
    });
    this.units = marker.units.length > 1 ? unitChoice(marker, id) : null;
    this.box = element("div", { class: "field" },
      element("label", { for: id }, marker.title),
      element("div", { class: "entry" }, this.input,
        this.units ?? element("span", { id: `${id}-unit`, class: "unit" }, shownUnit(marker.units[0].unit))),
      this.hint, this.note);
    this.showHint();
  }

  unit() {
    return this.marker.units[this.units?.selectedIndex ?? 0];
  }

  choose(unit) {
    const found = this.marker.units.findIndex((each) => each.unit === unit);
    if (this.units) this.units.selectedIndex = Math.max(0, found);
    this.showHint();
  }

  /** The value in the canonical unit; null where there is none. */
  canonical() {
    const { value } = parseNumber(this.input.value);
    return value === undefined ? null : toCanonical(value, this.unit());
  }

  /** Say what is wrong, or unusual, about the entry; whether it can be sent. */
  check(sending = false) {
    this.showHint();
    const entry = parseNumber(this.input.value);
    let fault = entry.fault ? `This ${entry.fault}.` : "";
    if (sending && this.required && entry.missing) fault = "Needed for an answer.";
    this.say(fault || (entry.value === undefined ? "" : this.remark(this.canonical())), fault !== "");
    return fault === "";
  }

  say(text, wrong) {
    this.note.textContent = text;
    this.note.className = wrong ? "fault" : "remark";
    this.input.toggleAttribute("aria-invalid", false);
    if (wrong) this.input.setAttribute("aria-invalid", "true");
  }

  cleared() {
    this.say("", false);
    this.choose(null);
  }

  focus() {
    this.input.focus();
  }
}

class MarkerField extends NumberField {
  constructor(marker) {
    super(marker, false);
    this.median = null;
  }

  showUsual(median) {
    this.median = median;
    this.showHint();
  }

  showHint() {
    const unit = this.unit();
    const usually = (this.median ?? null) === null ? "" : ` · usual ${shown(fromCanonical(this.median, unit))}`;
    this.hint.textContent = `Plausible ${shownRange(this.marker.plausible, unit)}${usually}`;
  }

  /** Beyond the plausible it may be sent, and the model declines; beyond the trained it warns. */
  remark(value) {
    const { plausible, trained } = this.marker;
    if (!isWithin(value, plausible)) {
      const typed = parseNumber(this.input.value).value;
      const other = this.marker.units.find((unit) => isWithin(toCanonical(typed, unit), plausible));
      const hint = other ? ` Is it in ${shownUnit(other.unit)}?` : "";
      return `Outside what is plausible: the model would decline to answer.${hint}`;
    }
    if ((trained[0] !== null && value < trained[0]) || (trained[1] !== null && value > trained[1])) {
      return `Beyond the people the model was trained on (${shownRange(trained, this.unit())}).`;
    }
    return "";
  }
}

class AgeField extends NumberField {
  showHint() {
    this.hint.textContent = `Plausible ${this.marker.plausible.join(" to ")}`;
  }

  remark(value) {
    const [youngest, oldest] = this.marker.trained;
    if (!isWithin(value, this.marker.plausible)) return "Outside what is plausible: the model would decline to answer.";
    return value < youngest || value >= oldest + 1 ? `The model was trained on people of ${youngest} to ${oldest}.` : "";
  }
}

function ageField(model) {
  const { possible, trained } = model.ages;
  const units = [{ unit: "years", factor: 1, zero: 0 }];
  return new AgeField({ name: AGE, title: "Age", plausible: possible, trained, units }, true);
}

function sexField() {
  const note = element("p", { id: "field-sex-note", class: "fault" });
  const radios = Object.entries(SEXES).map(([value, title]) =>
    element("label", { class: "radio" }, element("input", { type: "radio", name: "sex", value, autocomplete: "off" }), title));
  const box = element("div", { class: "field", role: "radiogroup", "aria-labelledby": "field-sex", "aria-describedby": "field-sex-note", "aria-required": "true" },
    element("span", { id: "field-sex", class: "label" }, "Sex"), element("div", { class: "entry" }, radios), note);
  const chosen = () => box.querySelector("input:checked");
  const say = (text) => {
    note.textContent = text;
    if (text) box.setAttribute("aria-invalid", "true");
    else box.removeAttribute("aria-invalid");
  };
  return {
    box,
    value: () => chosen()?.value ?? null,
    check: (sending = false) => {
      say(sending && chosen() === null ? "Needed for an answer." : "");
      return !sending || chosen() !== null;
    },
    focus: () => (chosen() ?? box.querySelector("input")).focus(),
    cleared: () => say(""),
  };
}

function unitChoice(marker, id) {
  const options = marker.units.map((each) => element("option", { value: each.unit }, shownUnit(each.unit)));
  return element("select", { id: `${id}-unit`, "aria-label": `Unit of ${marker.title}`, autocomplete: "off" }, options);
}

/** A choice of intervals; `fallback` is the one that the model has by itself. */
export function coverageChoice(id, fallback) {
  const shares = COVERAGES.includes(fallback) ? COVERAGES : [...COVERAGES, fallback].sort();
  return element("select", { id, autocomplete: "off" }, shares.map((share) =>
    element("option", { value: share, selected: share === fallback }, `${shown(share * 100)} %`)));
}

/** A group a system; two of one marker each that follow each other share a row, every other one has its own. */
function groups(fields) {
  const organs = [...new Set(fields.map((field) => field.marker.organ))];
  const boxes = organs.map((organ) => fields.filter((field) => field.marker.organ === organ).map((field) => field.box));
  let paired = false;
  return organs.map((organ, at) => {
    const alone = boxes[at].length === 1;
    const shares = alone && (paired || boxes[at + 1]?.length === 1);
    paired = shares && !paired;
    const legend = element("legend", {}, ORGANS[organ] ?? organ);
    return element("fieldset", { class: shares ? null : "wide" }, legend, element("div", { class: "fields" }, boxes[at]));
  });
}
