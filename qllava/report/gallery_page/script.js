"use strict";
// Data arrives by gallery(name, number, value) from scripts: inline, or files beside this page. Texts of users become
// text nodes only, never markup.
let index = null;
const files = { pictures: new Map(), texts: new Map() };
const waiting = new Map();
const KEPT_FILES = 40; // picture files in memory, about 1 MB each

function gallery(name, number, value) {
  if (name === "index") { index = value; return; }
  files[name].set(number, value);
}

function load(name, number) {
  if (files[name].has(number)) return Promise.resolve(files[name].get(number));
  const path = `${PAGES}${name}-${String(number).padStart(5, "0")}.js`;
  if (!waiting.has(path)) {
    waiting.set(path, new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = path;
      script.onload = () => { script.remove(); waiting.delete(path); done(files[name].get(number)); };
      script.onerror = () => { script.remove(); waiting.delete(path); fail(new Error(`${path} is missing`)); };
      document.head.append(script);
    }));
  }
  return waiting.get(path);
}

const $ = (id) => document.getElementById(id);
const state = { page: 0, query: "", status: "", kind: "", type: "", reason: "" };
let hits = []; // [picture, [sample, ...]] that pass the filters
let round = 0;

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.append(highlighted(text));
  return made;
}

function highlighted(text) {
  const holder = document.createDocumentFragment();
  const query = state.query.toLowerCase();
  const lower = text.toLowerCase();
  // Lower case may change the length of a text (a dotted capital I): then nothing is marked.
  if (!query || lower.length !== text.length) { holder.append(text); return holder; }
  let at = 0;
  for (let found = lower.indexOf(query); found >= 0; found = lower.indexOf(query, at)) {
    holder.append(text.slice(at, found));
    const mark = document.createElement("mark");
    mark.textContent = text.slice(found, found + query.length);
    holder.append(mark);
    at = found + query.length;
  }
  holder.append(text.slice(at));
  return holder;
}

const decoded = (code) => ({
  kind: index.kinds[code % 100],
  type: index.types[Math.floor(code / 100) % 1000],
  reason: code >= 100000 ? index.reasons[Math.floor(code / 100000) - 1] : null,
});

function passes(code) {
  const { kind, type, reason } = decoded(code);
  return (!state.kind || kind === state.kind) && (!state.type || type === state.type)
    && (!state.reason || reason === state.reason)
    && (!state.status || (state.status === index.words.bad) === (reason !== null));
}

async function filter() {
  const mine = ++round;
  const query = state.query.toLowerCase();
  const found = [];
  for (let picture = 0; picture < index.codes.length; picture++) {
    let texts = null;
    if (query) {
      const file = Math.floor(picture / index.textPictures);
      if (!files.texts.has(file)) {
        $("place").textContent = "searching …";
        await load("texts", file);
        if (mine !== round) return;
      }
      texts = files.texts.get(file)[picture % index.textPictures];
    }
    const captions = !texts || texts[0].includes(query);
    const samples = [];
    index.codes[picture].forEach((code, sample) => {
      if (passes(code) && (captions || texts[sample + 1].includes(query))) samples.push(sample);
    });
    if (samples.length) found.push([picture, samples]);
  }
  hits = found;
  await show(mine);
}

const pages = () => Math.max(1, Math.ceil(hits.length / index.pagePictures));

async function show(mine = ++round) {
  state.page = Math.min(Math.max(0, state.page), pages() - 1);
  const view = hits.slice(state.page * index.pagePictures, (state.page + 1) * index.pagePictures);
  let cards;
  try {
    cards = await Promise.all(view.map(async ([picture, samples]) => {
      const file = await load("pictures", Math.floor(picture / index.filePictures));
      return card(file[picture % index.filePictures], picture, samples);
    }));
  } catch (error) {
    cards = [element("p", "empty", `${error.message}: keep the page and its folder together.`)];
  }
  if (mine !== round) return;
  if (!cards.length) cards = [element("p", "empty", "Nothing matches these filters.")];
  $("list").replaceChildren(...cards);
  $("place").textContent = `${(state.page + 1).toLocaleString("en")} / ${pages().toLocaleString("en")}`;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page === pages() - 1;
  summary();
  remember();
  // Only what is far from the view is let go; inline data has no file to come back from.
  const needed = new Set(view.map(([picture]) => Math.floor(picture / index.filePictures)));
  for (const number of files.pictures.keys()) {
    if (PAGES && files.pictures.size > KEPT_FILES && !needed.has(number)) files.pictures.delete(number);
  }
}

function summary() {
  const samples = hits.reduce((sum, hit) => sum + hit[1].length, 0);
  const rejected = hits.reduce((sum, [picture, shown]) => {
    return sum + shown.filter((sample) => index.codes[picture][sample] >= 100000).length;
  }, 0);
  const number = (value) => value.toLocaleString("en");
  const share = index.codes.length < index.of ? ` of ${number(index.of)}` : "";
  const { entries, good, bad, who } = index.words;
  const judged = bad ? `${number(samples - rejected)} ${entries} ${good}, ${number(rejected)} ${bad}` : `${number(samples)} ${entries}`;
  $("summary").textContent = `${number(hits.length)}${share} pictures, ${judged}${who ? `, ${who}` : ""}`;
}

function card(record, number, shown) {
  const article = element("article");
  article.append(figure(record));
  const list = element("div", "samples");
  for (const at of shown) list.append(sample(record.samples[at], decoded(index.codes[number][at])));
  article.append(list);
  return article;
}

function figure(record) {
  const holder = element("figure");
  const picture = element("div", record.data ? "picture" : "picture none");
  if (record.data) {
    const image = document.createElement("img");
    image.src = `data:image/jpeg;base64,${record.data}`;
    image.width = record.width;
    image.height = record.height;
    image.alt = record.captions[0] || record.image;
    if (Math.max(record.width, record.height) <= 160) picture.classList.add("small");
    picture.append(image);
  } else {
    picture.textContent = record.image ? "not on disk" : "no picture";
  }
  const areas = record.boxes.map((box) => (box[3] - box[1]) * (box[4] - box[2]));
  const order = record.boxes.map((_, at) => at).sort((a, b) => areas[b] - areas[a]); // small ones on top
  for (const at of order) picture.append(box(record.boxes[at]));
  holder.append(picture);
  const caption = element("figcaption");
  caption.append(element("div", "name", record.image || "text only"));
  if (record.captions.length) {
    const list = element("ul");
    for (const text of record.captions) list.append(element("li", "", text));
    caption.append(list);
  }
  holder.append(caption);
  return holder;
}

function box([category, x1, y1, x2, y2, crowd]) {
  const drawn = element("div", crowd ? "box crowd" : "box");
  let hash = 0;
  for (const letter of category) hash = (hash * 31 + letter.codePointAt(0)) % 9973;
  const hue = (hash * 137.5) % 360; // the golden angle: near hashes, far colours
  drawn.style.setProperty("--hue", String(hue));
  const percent = (value) => `${value * 100}%`;
  Object.assign(drawn.style, { left: percent(x1), top: percent(y1), width: percent(x2 - x1), height: percent(y2 - y1) });
  if (y1 > 0.07) drawn.classList.add("low");
  if (x1 > 0.7) drawn.classList.add("right");
  drawn.title = crowd ? `${category} (crowd)` : category;
  const label = document.createElement("span");
  label.textContent = category;
  drawn.append(label);
  return drawn;
}

function sample(record, { kind, type, reason }) {
  const row = element("section", reason === null ? "sample" : "sample rejected");
  const tag = element("div", "tag");
  const name = document.createElement("b");
  name.textContent = type || kind;
  tag.append(name, type ? kind : "");
  const body = element("div");
  if (reason !== null) {
    const why = element("p", "reason", reason);
    if (record.detail) why.append(element("span", "", `: ${record.detail}`));
    body.append(why);
  }
  for (const [question, answer] of record.turns) {
    const turn = element("div", "turn");
    if (question) turn.append(element("p", "question", question));
    if (answer) turn.append(element("p", "answer", answer));
    body.append(turn);
  }
  if (record.columns) body.append(columns(record.columns));
  row.append(tag, body);
  return row;
}

function columns(answers) {
  const grid = element("div", "columns");
  answers.forEach((answer, at) => {
    const cell = element("div", "column");
    cell.append(element("p", "name", index.columns[at]), element("p", "answer", answer || "(no answer)"));
    grid.append(cell);
  });
  return grid;
}

function choices(id, all, names) {
  const select = $(id);
  for (const [value, text] of [["", all], ...names.filter(Boolean).map((name) => [name, name])]) {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    select.append(option);
  }
  select.hidden = names.filter(Boolean).length < 1;
  select.addEventListener("change", () => change({ [id]: select.value }));
}

function change(values) {
  Object.assign(state, { page: 0 }, values);
  reflect();
  filter();
}

function reflect() {
  for (const id of ["status", "kind", "type", "reason"]) {
    $(id).value = state[id];
    $(id).classList.toggle("set", state[id] !== "");
  }
  if ($("query").value !== state.query) $("query").value = state.query;
}

// The address keeps the view, so that a reload or a link shows it again.
function remember() {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) if (value) kept.set(name, String(value));
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(state)) if (kept.has(name)) state[name] = kept.get(name);
  state.page = Number.parseInt(state.page, 10) || 0;
}

function turn(step) {
  if (state.page + step < 0 || state.page + step >= pages()) return;
  state.page += step;
  show();
  window.scrollTo(0, 0);
}

function start() {
  if (!index) { $("list").append(element("p", "empty", "The data is missing: keep the page and its folder together.")); return; }
  const { page, good, bad } = index.words;
  document.title = `${index.title} · ${page}`;
  $("title").textContent = index.title;
  choices("status", `${good} and ${bad}`, bad && index.reasons.length ? [good, bad] : []);
  $("boxes").parentElement.hidden = page !== "gallery"; // answers come without boxes
  choices("kind", "every kind", [...index.kinds].sort());
  choices("type", "every type", [...index.types].sort());
  choices("reason", "every reason", [...index.reasons].sort());
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  let timer = 0;
  $("query").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => change({ query: $("query").value.trim() }), 200);
  });
  const bare = () => document.body.classList.toggle("bare", !$("boxes").checked);
  $("boxes").addEventListener("change", bare);
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target instanceof HTMLSelectElement || event.target === $("query");
    if (event.key === "Escape") { $("query").blur(); change({ query: "", status: "", kind: "", type: "", reason: "" }); }
    else if (typing) return;
    else if (event.key === "ArrowRight") turn(1);
    else if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "b") { $("boxes").checked = !$("boxes").checked; bare(); }
    else if (event.key === "/") { event.preventDefault(); $("query").focus(); }
  });
  window.addEventListener("hashchange", () => { recall(); reflect(); filter(); });
  recall();
  reflect();
  filter();
}
