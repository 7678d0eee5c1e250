// What the server says in names, in words.

export const ORGANS = {
  liver: "Liver",
  kidney: "Kidney",
  inflammation: "Inflammation",
  metabolism: "Metabolism",
  blood: "Blood count",
};

export const CLOCKS = {
  age: "An age clock: it says which age blood like this usually has.",
  mortality: "A mortality clock: it says at which age people usually have the same risk of dying.",
};

/** A reason of the answer's `flags`: {text, name}, name being the input it is about, or null. */
export function reason(flag, model) {
  const [kind, name] = flag.split(":");
  const marker = model.markers.find((each) => each.name === name);
  const title = marker?.title ?? name;
  const [youngest, oldest] = model.ages.trained;
  const texts = {
    sex_missing_or_unknown: "The sex is missing; the model reads blood differently in women and men.",
    age_missing: "The age is missing.",
    age_implausible: `The age lies outside ${model.ages.possible.join(" to ")} years.`,
    too_many_missing: `Too many markers are missing: the model answers with at most ${model.max_missing} left out.`,
    implausible: `${title} lies outside what is plausible, so it is taken for a mistake, often one of units.`,
    age_outside_training: `The age lies outside ${youngest} to ${oldest} years, those of the people the model was trained on.`,
    outside_training: `${title} lies beyond the people the model was trained on: the answer reaches past what it has seen.`,
    missing: `${title} was not given; the interval allows for it.`,
  };
  const inputs = { sex_missing_or_unknown: "sex", age_missing: "age_years", age_implausible: "age_years", age_outside_training: "age_years" };
  return { kind, text: texts[kind] ?? flag, name: inputs[kind] ?? marker?.name ?? null };
}

/** What went wrong, and what helps; the request's id only where somebody has to look it up. */
export function problemText(problem) {
  const texts = {
    UNREACHABLE: "The server does not answer. It may be stopped, or the network is down. Try again in a while.",
    UNAUTHENTICATED: "The server does not know this key, or it has expired.",
    FORBIDDEN: "This key is not made for asking the model; it lacks the scope “score”.",
    WRONG_HOST: "The server does not answer under this address. Whoever runs it can allow it (serving.hosts).",
    NOT_READY: "The server is starting or stopping. Try again in a few seconds.",
    RATE_LIMITED: "Too many requests with this key. Wait a moment, then try again.",
    OVERLOADED: "The server is busy. Try again in a few seconds.",
    TOO_LARGE: "This is more than the server takes at once.",
    SCHEMA_MISMATCH: "The server expects other inputs: its model may have changed. Reload the page.",
    MODEL_ERROR: "The model failed. Whoever runs the server finds why in its log.",
    DEADLINE_EXCEEDED: "The answer took too long. Try again.",
    REQUEST_TIMEOUT: "Sending took too long. Try again.",
  };
  const text = texts[problem.code] ?? `The server refused (${problem.code}).`;
  const unexplained = problem.code === "MODEL_ERROR" || !(problem.code in texts);
  return unexplained && problem.id !== null ? `${text} Request ${problem.id}.` : text;
}
