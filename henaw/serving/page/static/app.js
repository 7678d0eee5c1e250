// The page: asks for the model, for a key where one is needed, and puts the form, the answer and the file together.

import { answerParts } from "./answer.js";
import { askModel, askOne, pause, Problem, setKey } from "./api.js";
import { Batch } from "./batch.js";
import { byId, element } from "./dom.js";
import { PersonForm } from "./form.js";
import { CLOCKS, problemText } from "./words.js";

let model = null;
let person = null;
let asking = null;
let answered = false;

async function begin() {
  try {
    build(await askModel());
    show({ start: null, access: false, work: true });
    return true;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.code === "UNAUTHENTICATED" || error.code === "FORBIDDEN") {
      wantKey(error);
    } else if (error.wait !== null) {
      show({ start: problemText(error), access: false, work: model !== null });
      await pause(error.wait);
      return begin();
    } else {
      show({ start: problemText(error), access: false, work: model !== null });
    }
    return false;
  }
}

function show({ start, access, work }) {
  byId("start").hidden = start === null;
  byId("start").textContent = start ?? "";
  byId("access").hidden = !access;
  byId("work").hidden = !work;
}

/** Build, or build anew for another version; what was entered stays. */
function build(found) {
  const kept = person?.kept();
  model = found;
  const { name, version, title, target } = model.model;
  byId("model-line").textContent = `${title}. Model ${name}, version ${version}. ${CLOCKS[target]}`;
  byId("person-help").textContent =
    `Sex and age are needed. Up to ${model.max_missing} of the ${model.markers.length} markers may be left empty; the interval then is wider. ` +
    "“Usual” is the median of people of the same sex and age among those the model was trained on.";
  person = new PersonForm(byId("form"), model, kept);
  new Batch(byId("file-body"), model, keyProblem);
}

// --- the key ---------------------------------------------------------------------------------------------------------

function keyProblem(problem) {
  if (problem.code === "UNAUTHENTICATED" || problem.code === "FORBIDDEN") wantKey(problem);
}

let tried = false;

function wantKey(problem) {
  show({ start: null, access: true, work: model !== null });
  byId("key-fault").textContent = tried ? problemText(problem) : "";
  byId("key").setAttribute("aria-invalid", String(tried));
  byId("key").focus();
}

byId("access-form").onsubmit = async (event) => {
  event.preventDefault();
  tried = true;
  setKey(byId("key").value.trim());
  byId("key").value = "";
  if (await begin()) {
    byId("forget").hidden = false;
    byId("person-title").scrollIntoView();
    person.sex.focus();
  }
};

byId("forget").onclick = () => {
  setKey(null);
  location.reload();
};

// --- one person ------------------------------------------------------------------------------------------------------

byId("form").onsubmit = async (event) => {
  event.preventDefault();
  const values = person.row();
  if (values === null) {
    status("Nothing was sent: a field has to be mended first.");
    return;
  }
  asking?.abort();
  asking = new AbortController();
  const units = Object.fromEntries(person.markers.map((field) => [field.marker.name, field.unit()]));
  const asked = { values, units, coverage: Number(person.coverage.value) };
  status("Asking the model …");
  try {
    const found = await askOne({ dataframe_records: [values], params: { coverage: asked.coverage } }, asking.signal);
    if (found.model !== `${model.model.name}/${model.model.version}`) build(await askModel());
    status("");
    showAnswer(found.reply, asked);
  } catch (error) {
    fail(error);
  }
};

function showAnswer(found, asked) {
  const { heading, parts } = answerParts(model, found, asked, (name) => person.field(name)?.focus());
  answered = true;
  byId("answer").classList.remove("stale");
  byId("answer-title").textContent = heading;
  byId("answer-body").replaceChildren(...parts.filter((part) => part !== null));
  byId("answer-title").focus({ preventScroll: true });
  const { top } = byId("answer").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) byId("answer").scrollIntoView();
}

function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) {
    status("This page has failed; reload it.");
    throw error;
  }
  status(`No answer. ${problemText(error)}`);
  keyProblem(error);
}

function status(text) {
  byId("form-status").textContent = text;
}

/** An answer about other values than those that stand in the form says so. */
byId("form").addEventListener("input", (event) => {
  status("");
  if (!answered || byId("answer").classList.contains("stale")) return;
  byId("answer").classList.add("stale");
  byId("answer-title").append(" for earlier entries");
  byId("answer-body").prepend(element("p", { class: "remarks warn" }, "The entries have changed since. Ask again for their answer."));
});
byId("form").addEventListener("reset", () => {
  asking?.abort();
  answered = false;
  status("");
  byId("answer").classList.remove("stale");
  byId("answer-title").textContent = "Answer";
  byId("answer-body").replaceChildren();
});

begin();
