"use strict";
// Texts of models and of users become text nodes only, never HTML.

const LAST = 60, MOST_LABELS = 8;
const RANKED = ["Nike running shoes for men, red", "Garden hose, 20 m", "Red sneakers for kids", "Office chair with wheels"];

// How each kind of model is asked: what stands in the fields at first, and how its answer is shown.
const KINDS = {
  "classification": { first: "A man plays a guitar.", second: ["A man plays an instrument.", "Nobody makes music."], show: showClasses },
  "multi-label-classification": { first: "Is it still there?", second: ["The delivery was late, and the box was open."], show: showClasses },
  "ranking": { first: "red running shoes", second: RANKED, show: showRanks },
  "question-answering": { first: "Who won?", second: ["The home team won by two goals, in front of 40,000 people."], whole: true, show: showAnswers },
  "token-classification": { second: ["Anna Schmidt moved to Oslo in May.", "red Nike running shoes, size 42"], show: showSpans },
  "single": { second: ["a red velvet sofa with steel legs", "running shoes for kids"], show: showClasses },
};

const at = (id) => document.getElementById(id);
const history = [];
let model = null;

function made(kind, content, name) {
  const element = document.createElement(kind);
  element.append(...[content ?? []].flat());
  if (name) element.className = name;
  return element;
}

const ms = (value) => (value < 100 ? value.toPrecision(value < 0.1 ? 2 : 3) : value.toFixed(0)) + " ms";
const percent = (share) => (100 * share).toFixed(1) + " %";
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

async function ask(path, content) {
  const headers = { "content-type": "application/json" };
  if (at("key") && at("key").value) headers.authorization = "Bearer " + at("key").value;
  const options = content === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(content) };
  const began = performance.now();
  const answer = await fetch(path, options).catch(() => { throw new Refused("the server does not answer", 0); });
  const found = await answer.json();
  if (answer.status === 401) showKeyField();
  if (!answer.ok) throw new Refused(found.error, answer.status);
  return { found, answer, spent: performance.now() - began };
}

function showKeyField() {
  if (at("key")) return;
  at("key-place").append(at("key-template").content.cloneNode(true));
  at("key").addEventListener("change", () => attempt(listModels));
}

async function attempt(what) {
  at("problem").textContent = "";
  try { await what(); } catch (problem) {
    at("problem").textContent = problem.message;
    at("live").checked = false;
    if (problem.status === 404 && model) { model = null; await listModels().catch(() => {}); } // it was swapped meanwhile
  }
}

async function listModels() {
  const { found } = await ask("v2/repository/index", { ready: true });
  const wanted = at("model").selectedOptions[0] ? at("model").selectedOptions[0].dataset.name : linked.get("model");
  const options = found.map(({ name, version }) => {
    const option = new Option(name + " (version " + version + ")", encodeURIComponent(name) + "/versions/" + version);
    option.dataset.name = name;
    return option;
  });
  if (!options.length) throw new Error("no model is loaded");
  at("model").replaceChildren(...options);
  at("model-place").hidden = options.length < 2;
  const chosen = options.filter((each) => each.dataset.name === wanted).pop();
  if (chosen) chosen.selected = true;
  await showModel();
}

async function showModel() {
  const path = "v2/models/" + at("model").value, { found } = await ask(path);
  const { kind, labels } = found.parameters, names = found.inputs.map((each) => each.name), pair = names.length > 1;
  const isRanking = pair && ((kind === "classification" && labels.length === 2) || ["relevance", "regression", "similarity"].includes(kind));
  const way = isRanking ? KINDS.ranking : pair || kind === "token-classification" ? KINDS[kind] : KINDS.single;
  model = { path, kind, labels, names, way };
  at("first-place").hidden = !pair;
  at("first-name").textContent = capital(names[0]);
  at("second-name").textContent = capital(names[names.length - 1]) + (way.whole ? "" : ", one a line");
  if (!asked) at("first").value = way.first || "";
  if (!asked) at("second").value = way.second.join("\n");
  const only = at("model-place").hidden ? [["Model", at("model").selectedOptions[0].text]] : [];
  at("about").replaceChildren(...described([...only, ...factsOf(found)]));
}

const described = (facts) => facts.flatMap(([name, value]) => [made("dt", name), made("dd", value)]);

function factsOf({ inputs, parameters: { kind, labels, max_length, measured } }) {
  const facts = [["Task", kind.replaceAll("-", " ")]];
  const others = labels.length > MOST_LABELS ? " and " + (labels.length - MOST_LABELS) + " more" : "";
  if (labels.length) facts.push(["Labels", labels.slice(0, MOST_LABELS).join(", ") + others]);
  facts.push(["Reads", inputs.map((each) => each.name).join(" and ") + ", up to " + max_length + " tokens"]);
  if (!measured) return [...facts, ["Measured", "not by prunetime prune"]];
  const { budget, dense, pruned, machine } = measured;
  const amount = budget.us === null ? Number((100 * budget.share).toFixed(1)) + " % of dense" : ms(budget.us / 1000);
  facts.push(["Budget", amount + " (" + budget.statistic + ", " + budget.batch + " × " + budget.seq_len + " tokens)"]);
  facts.push(["Measured", "median " + ms(pruned.p50_us / 1000) + " (dense " + ms(dense.p50_us / 1000) + ") on " + machine.cpu]);
  facts.push(["Quality", pruned.metric + " " + pruned.value.toFixed(4) + " (dense " + dense.value.toFixed(4) + ")"]);
  return facts;
}

function bar(share) {
  const element = made("div", [], "bar");
  element.style.width = 100 * Math.min(1, Math.max(0, share)) + "%";
  return element;
}

// An ordered list of rows: [score as text, share of the bar or null, text].
function list(rows) {
  const items = rows.map(([said, share, text]) => [made("span", said, "score"), made("span", text), ...(share === null ? [] : [bar(share)])]);
  return made("ol", items.map((parts) => made("li", parts)));
}

function showRanks({ score }, texts) {
  const { kind, labels } = model, isShare = kind !== "regression";
  const of = { regression: "score", similarity: "similarity", relevance: "relevance" }[kind] || "probability of " + labels[1];
  const rows = texts.map((text, i) => [score.data[i], text]).sort((a, b) => b[0] - a[0]);
  return ["Ranked by " + of + ".", [list(rows.map(([value, text]) => [value.toFixed(4), isShare ? value : null, text]))]];
}

function showClasses({ score, labels: given }, texts) {
  const { kind, labels } = model;
  if (labels.length === 0) {
    const rows = texts.map((text, i) => [score.data[i].toFixed(4), kind === "relevance" ? score.data[i] : null, text]);
    return ["Scores.", [list(rows)]];
  }
  const wide = score.shape[1] || 1;
  return ["Probabilities of the labels.", texts.map((text, i) => {
    const data = score.data.slice(i * wide, (i + 1) * wide), shares = wide === 1 ? [1 - data[0], data[0]] : data;
    const rows = labels.map((label, k) => [shares[k], label]).sort((a, b) => b[0] - a[0]).slice(0, MOST_LABELS);
    const has = given === undefined ? [] : made("span", " " + (JSON.parse(given.data[i]).join(", ") || "no label"), "soft");
    return made("article", [made("h3", [text, has].flat()), list(rows.map(([share, label]) => [percent(share), share, label]))]);
  })];
}

function showAnswers({ answer, start, score }, texts) {
  return ["The part of the text that answers.", texts.map((text, i) => {
    const said = answer.data[i] || "no answer", span = { start: start.data[i], text: answer.data[i] };
    return made("article", [made("h3", [said, " ", made("span", percent(score.data[i]), "soft")]), marked(text, answer.data[i] ? [span] : [])]);
  })];
}

function showSpans({ spans }, texts) {
  const shown = texts.map((text, i) => made("article", marked(text, JSON.parse(spans.data[i]))));
  return ["Spans, each with its label and the least probability of its words.", shown];
}

// A text in which spans are marked. They are counted in code points, as Python does, not in JavaScript's UTF-16.
function marked(text, spans) {
  const points = Array.from(text), parts = [];
  let end = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    const last = span.start + Array.from(span.text).length;
    parts.push(points.slice(end, span.start).join(""));
    const label = span.label === undefined ? [] : made("span", " " + span.label + " " + percent(span.score), "label");
    parts.push(made("mark", [points.slice(span.start, last).join(""), label].flat()));
    end = last;
  }
  return made("p", [...parts, points.slice(end).join("")], "text");
}

function showTimes(answer, spent) {
  const stages = (answer.headers.get("server-timing") || "").split(", ").map((each) => each.split(";dur="));
  const facts = stages.map(([name, value]) => [capital(name), ms(Number(value))]);
  at("times").replaceChildren(...described([["Model", answer.headers.get("x-prunetime-model")], ...facts, ["There and back", ms(spent)]]));
  history.push(spent);
  if (history.length > LAST) history.shift();
  const most = Math.max(...history), sorted = [...history].sort((a, b) => a - b);
  at("times-place").hidden = false;
  for (const id of ["chart", "range"]) at(id).toggleAttribute("hidden", history.length < 2);
  const points = history.map((spent, i) => [(100 * i) / Math.max(1, history.length - 1), 39 - (37 * spent) / most]);
  at("line").setAttribute("points", points.join(" "));
  at("range").textContent = "Last " + history.length + ", there and back: median " + ms(sorted[sorted.length >> 1]) + ", most " + ms(most);
}

async function score() {
  if (!model) await listModels();
  const { names, path, way } = model, written = at("second").value;
  const texts = way.whole ? [written] : written.split("\n").filter((line) => line.trim());
  if (!texts.some((text) => text.trim())) throw new Error("there is no text: write one");
  const columns = names.length > 1 ? [texts.map(() => at("first").value), texts] : [texts];
  const inputs = columns.map((data, i) => ({ name: names[i], shape: [data.length], datatype: "BYTES", data }));
  const { found, answer, spent } = await ask(path + "/infer", { inputs });
  const [about, shown] = way.show(Object.fromEntries(found.outputs.map((each) => [each.name, each])), texts);
  at("results-about").textContent = about;
  at("results").replaceChildren(...shown);
  showTimes(answer, spent);
  if (at("live").checked) setTimeout(() => attempt(score), 300);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); attempt(score); });
at("live").addEventListener("change", () => at("results").setAttribute("aria-live", at("live").checked ? "off" : "polite"));
at("model").addEventListener("change", () => attempt(showModel));
for (const id of ["first", "second"]) at(id).addEventListener("input", () => { asked = true; });

// A link can ask: ?model=ads&query=red+shoes&text=an+ad&text=another
const linked = new URLSearchParams(location.search);
let asked = linked.has("text");
if (linked.has("query")) at("first").value = linked.get("query");
if (asked) at("second").value = linked.getAll("text").join("\n");
attempt(asked ? score : listModels);
