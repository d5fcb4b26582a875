"use strict";
const at = (id) => document.getElementById(id);
const history = [];
let known = null;

function say(problem) { at("problem").textContent = problem; }

async function ask(path, content) {
  const headers = {};
  if (at("key").value) headers.authorization = "Bearer " + at("key").value;
  const options = content === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(content) };
  const began = performance.now();
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (answer.status === 401) at("key-line").hidden = false;
  if (!answer.ok) throw new Error(found.error);
  return { found, answer, spent: performance.now() - began };
}

async function listModels() {
  const { found } = await ask("v2/repository/index", {});
  const options = found.map((each) => new Option(each.name + " (version " + each.version + ")", each.name + "/versions/" + each.version));
  at("model").replaceChildren(...options);
  await showModel();
}

async function showModel() {
  known = (await ask("v2/models/" + at("model").value)).found;
  const names = known.inputs.map((each) => each.name);
  at("first").hidden = names.length < 2;
  at("first-name").textContent = names[0];
  at("second-name").textContent = names[names.length - 1];
}

function show(outputs, texts) {
  const of = Object.fromEntries(outputs.map((each) => [each.name, each]));
  const wide = of.score.shape.length > 1 ? of.score.shape[1] : 1, labels = known.parameters.labels;
  let rows = texts.map((text, i) => {
    const scores = of.score.data.slice(i * wide, (i + 1) * wide), best = scores.indexOf(Math.max(...scores));
    const said = of.answer ? of.answer.data[i] + " — " + text : wide > 1 ? labels[best] + ": " + text : text;
    return { said, score: scores[best] };
  });
  if (wide === 1) rows = rows.sort((a, b) => b.score - a.score);
  at("scores").replaceChildren(...rows.map((row) => {
    const item = document.createElement("li"), score = document.createElement("span"), text = document.createElement("span");
    const bar = document.createElement("div");
    score.className = "score"; score.textContent = row.score.toFixed(4);
    text.textContent = row.said;
    bar.className = "bar"; bar.style.width = 100 * Math.min(1, Math.max(0, row.score)) + "%";
    item.append(score, text, bar);
    return item;
  }));
}

function showTimes(answer, spent) {
  const stages = (answer.headers.get("server-timing") || "").split(", ").map((each) => each.split(";dur="));
  const said = stages.map(([name, ms]) => name + " " + Math.round(1000 * ms) + " µs");
  at("times").textContent = answer.headers.get("x-prunetime-model") + ": " + said.join(", ") + "; from here and back " + spent.toFixed(1) + " ms";
  history.push(spent);
  if (history.length > 60) history.shift();
  const most = Math.max(...history);
  const points = history.map((ms, i) => (100 * i) / Math.max(1, history.length - 1) + "," + (39 - (37 * ms) / most));
  at("chart").innerHTML = "<polyline points='" + points.join(" ") + "'/>";
  const sorted = [...history].sort((a, b) => a - b);
  at("range").textContent = "last " + history.length + ": median " + sorted[sorted.length >> 1].toFixed(1) + " ms, most " + most.toFixed(1) + " ms";
}

async function score() {
  say("");
  try {
    if (!known) await listModels();
    const texts = at("texts").value.split("\n").filter((line) => line.trim());
    const names = known.inputs.map((each) => each.name), rows = [at("query").value, null];
    const inputs = names.map((name, i) => ({
      name, shape: [texts.length], datatype: "BYTES",
      data: i === names.length - 1 ? texts : texts.map(() => rows[0]),
    }));
    const { found, answer, spent } = await ask("v2/models/" + at("model").value + "/infer", { inputs });
    show(found.outputs, texts);
    showTimes(answer, spent);
  } catch (problem) { say(problem.message); at("live").checked = false; }
  if (at("live").checked) setTimeout(score, 300);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); score(); });
at("model").addEventListener("change", () => showModel().catch((problem) => say(problem.message)));
at("key").addEventListener("change", () => listModels().catch((problem) => say(problem.message)));

// A link can ask: ?query=red+shoes&text=an+ad&text=another
const linked = new URLSearchParams(location.search);
if (linked.has("query")) at("query").value = linked.get("query");
if (linked.has("text")) at("texts").value = linked.getAll("text").join("\n");
if (linked.has("text")) score();
else listModels().catch((problem) => say(problem.message));
