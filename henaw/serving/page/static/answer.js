// The answer about one person, in words and pictures.

import { markerTable, organTable } from "./attribution.js";
import { distributionPicture } from "./distribution.js";
import { drawnToFit, element } from "./dom.js";
import { percent, shown, signed, years } from "./numbers.js";
import { reason } from "./words.js";

/**
 * What stands in the answer's section, and its heading.
 * @param asked {values, units, coverage}: canonical values and chosen units by name
 * @param goTo called with the name of an input that a reason is about
 */
export function answerParts(model, found, asked, goTo) {
  const { answer } = found;
  const flags = answer.flags === "" ? [] : answer.flags.split(";").map((flag) => reason(flag, model));
  if (answer.status === "abstain") {
    return {
      heading: "No estimate",
      parts: [
        element("p", {}, "The model declines to answer, because an estimate would mislead:"),
        reasons(flags.filter(({ kind }) => !["missing", "outside_training", "age_outside_training"].includes(kind)), goTo),
        element("p", { class: "muted" }, "Mend what is wrong, or leave the value empty, and ask again."),
      ],
    };
  }
  const share = shown(asked.coverage * 100);
  return {
    heading: `Biological age ${years(answer.biological_age_years)} years`,
    parts: [
      lead(answer, asked, share),
      remarks(flags, answer.status, goTo),
      picture(model, found, asked, share),
      ...(model.model.target === "mortality" ? risks(answer, share, model) : []),
      ...comparison(answer),
      ...uncertainty(answer, found.members, model, share),
      ...moved(model, found, asked),
    ],
  };
}

function lead(answer, asked, share) {
  const gap = answer.age_gap_years;
  const side = Math.abs(gap) < 0.05 ? "the same as" : `${years(Math.abs(gap))} years ${gap > 0 ? "above" : "below"}`;
  return element("p", { class: "lead" },
    `${share} % interval: `, element("strong", {}, `${years(answer.lower_years)} to ${years(answer.upper_years)} years`),
    `. The estimate is ${side} the age of ${shown(asked.values.age_years, 4)}.`);
}

function remarks(flags, status, goTo) {
  if (!flags.length) return null;
  const title = status === "warn" ? "Read with caution" : "Note";
  return element("div", { class: status === "warn" ? "remarks warn" : "remarks" }, element("h3", {}, title), reasons(flags, goTo));
}

function reasons(flags, goTo) {
  return element("ul", {}, flags.map(({ text, name }) => {
    if (name === null) return element("li", {}, text);
    const button = element("button", { type: "button", class: "link", "aria-label": `Go to the field: ${text}` }, "Go to the field");
    button.onclick = () => goTo(name);
    return element("li", {}, text, " ", button);
  }));
}

function picture(model, found, asked, share) {
  const { answer, quantiles, members } = found;
  const ages = {
    quantiles, members, lower: answer.lower_years, upper: answer.upper_years, median: answer.biological_age_years, age: asked.values.age_years,
  };
  const told = `Distribution of the biological age: half of it below ${years(ages.median)} years, ${share} % from ${years(ages.lower)} to ` +
    `${years(ages.upper)} years; the age is ${shown(ages.age, 4)}. The ${members.length} networks stand between ` +
    `${years(Math.min(...members))} and ${years(Math.max(...members))} years.`;
  const place = element("div", { class: "picture" });
  drawnToFit(place, (width) => distributionPicture(ages, width, told));
  return element("figure", {}, place, element("figcaption", {},
    element("span", { class: "key inside" }, `${share} % of the distribution`),
    element("span", { class: "key outside" }, "the rest"),
    element("span", { class: "key member" }, `below: the ${model.members} networks, one mark each`)));
}

function risks(answer, share, model) {
  const rows = [5, 10].map((horizon) => element("tr", {},
    element("th", { scope: "row" }, `within ${horizon} years`),
    element("td", {}, percent(answer[`risk_${horizon}y`])),
    element("td", {}, `${percent(answer[`risk_${horizon}y_lower`])} to ${percent(answer[`risk_${horizon}y_upper`])}`)));
  return [
    element("h3", {}, "Risk of dying"),
    element("table", {},
      element("caption", {}, "From any cause, among people like those the model was trained on"),
      element("thead", {}, element("tr", {}, ["Time", "Estimate", "The networks' range"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, rows)),
    element("p", { class: "muted" },
      `The range holds ${share} % of what the ${model.members} networks say by themselves. It shows how far they disagree, not what will happen. ` +
      "Elsewhere or in another time the same blood may carry another risk."),
  ];
}

function comparison(answer) {
  const z = answer.age_gap_z;
  const size = Math.abs(z) < 1 ? "within what is common" : Math.abs(z) < 2 ? "uncommon, but not rare" : "rare";
  return [
    element("h3", {}, "Compared with others of this age"),
    element("p", {}, element("strong", {}, `${signed(answer.age_gap_adjusted_years)} years`),
      `, or ${signed(z)} standard deviations: ${size} among people of this age.`),
    element("p", { class: "muted" },
      "Estimates lean towards the middle: the young come out too old and the old too young. This comparison has that " +
      "removed, which the plain difference above has not. Compare people by this one."),
  ];
}

function uncertainty(answer, members, model, share) {
  const [aleatoric, epistemic] = [answer.aleatoric_sd_years, answer.epistemic_sd_years];
  const part = epistemic ** 2 / (aleatoric ** 2 + epistemic ** 2);
  const calibrated = model.model.target === "age"
    ? `Of people whom the networks had not seen, about ${share} % were of an age inside their interval.`
    : "Nobody can observe a biological age of this kind, so the interval comes from the model alone.";
  return [
    element("h3", {}, "How sure this is"),
    element("dl", {},
      element("dt", {}, `± ${years(aleatoric)} years: people differ`),
      element("dd", {}, "The spread among people whose markers are the same. More networks would not make it smaller; other markers might."),
      element("dt", {}, `± ${years(epistemic)} years: the networks disagree`),
      element("dd", {}, `The model is ${members.length} networks trained apart, whose estimates run from ${years(Math.min(...members))} to ` +
        `${years(Math.max(...members))} years. They disagree most about people unlike those they were trained on. Here that is ` +
        `${shown(part * 100, 2)} % of the whole variance.`)),
    element("p", { class: "muted" }, calibrated),
  ];
}

function moved(model, found, asked) {
  const { attribution } = found;
  return [
    element("h3", {}, "What moved the age"),
    element("p", { class: "muted" },
      "The estimate, less the estimate with that marker at the median of people of this sex and age. Right and +: older; left and \u2212: younger. " +
      "It describes the model, not a cause."),
    markerTable(model, attribution, asked.values, asked.units),
    element("p", {}, `All together ${signed(attribution.total)} years, ${signed(attribution.interaction)} of them by what markers do only in company.`),
    element("details", {}, element("summary", {}, "By organ system"), organTable(attribution)),
  ];
}
