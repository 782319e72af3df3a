// The review page: list, search and review over the API. Texts of pages reach the document as text nodes only.
"use strict";

const $ = id => document.getElementById(id);
const main = $("main");
const offered = ["general", "prescription", "homework"];

/** Characters that could move or hide text, made visible; as `visible` of fusion/output/marks.py. */
const visible = text => text.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]|\p{Cs}/gu, c =>
  c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const rows = text => text.split("\n").map(visible).join("\n");
const h = (tag, settings = {}, ...children) => {
  const { data, ...rest } = settings, made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
};
const svg = (tag, settings) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(settings).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
};
const part = (text, start, end) => [...text].slice(start, end).join(""); // places count code points
const percent = value => value === null ? "?" : value >= 1 ? "100 %" : `${Math.floor(100 * value)} %`;
const say = (text, bad = false) => { $("status").textContent = text; $("status").classList.toggle("bad", bad); };

async function call(path, settings = {}) {
  const reply = await fetch(path, settings);
  if (reply.status === 401) { $("login").showModal(); throw new Error("The token is missing."); }
  if (reply.status === 204) return null;
  const body = await reply.json();
  if (!reply.ok) throw new Error(typeof body.detail === "string" ? body.detail : "The request was refused.");
  return body;
}
const post = (path, body) => call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
/** One thing after the other: a key that comes while a correction is being saved waits for it. */
let work = Promise.resolve(), failures = 0;
const act = step => { work = work.then(step).catch(error => { failures++; say(error.message, true); }); return work; };
/** As `act`, but not after a failure that its caller had not seen: what follows a lost decision would meet another text. */
const actUnlessFailed = step => { const seen = failures; return act(() => seen === failures ? step() : null); };

// --- the list -------------------------------------------------------------------------------------------------------

async function list() {
  const files = h("input", { type: "file", multiple: true, accept: "image/*,.pdf", id: "files" });
  const profile = h("select", { id: "profile", ariaLabel: "What it is" }, offered.map(name => h("option", { value: name, textContent: name })));
  const drop = h("div", { className: "drop" }, h("p", { textContent: "Drop photographs or PDFs here, or" }), files, " as ", profile);
  const uploads = h("ul", { className: "rows" });
  files.onchange = () => act(() => send([...files.files], profile.value));
  drop.ondragover = event => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = event => { event.preventDefault(); drop.classList.remove("over"); act(() => send([...event.dataTransfer.files], profile.value)); };
  main.replaceChildren(drop, h("h2", { textContent: "Archive" }), uploads);
  const refresh = async () => {
    const known = await call("/v1/transcriptions");
    uploads.replaceChildren(...known.map(one => h("li", {},
      one.status === "done" ? h("a", { href: `/review/${one.id}`, textContent: visible(one.name) }) : visible(one.name),
      one.status === "done" ? (one.pages > 1 ? `${one.pages} pages` : "") : one.status,
      h("span", { className: "when", textContent: `${one.profile} · ${new Date(one.created).toLocaleString()}` }),
      one.problem ? h("span", { className: "problem", textContent: visible(one.problem) }) : null)));
    if (known.some(one => one.status === "waiting")) setTimeout(() => act(refresh), 1000);
  };
  await refresh();
  async function send(chosen, as) {
    const form = new FormData();
    chosen.forEach(file => form.append("file", file));
    form.append("profile", as);
    say("Reading …");
    const made = await call("/v1/transcriptions", { method: "POST", body: form });
    say("");
    if (made.id) location.href = `/review/${made.id}`; else await refresh();
  }
}

// --- search ---------------------------------------------------------------------------------------------------------

async function find(query) {
  $("find").q.value = query;
  const found = await call(`/v1/search?q=${encodeURIComponent(query)}`);
  say(found.length ? `${found.length} ${found.length === 1 ? "page" : "pages"}` : "Nothing found.");
  main.replaceChildren(h("ul", { className: "rows" }, found.map(one => h("li", {},
    h("a", { href: `/review/${one.transcription}?page=${one.page}#${one.hits[0].lines[0]}`, textContent: visible(one.name) }),
    h("span", { className: "when", textContent: new Date(one.created).toLocaleString() }),
    one.hits.filter((hit, n) => n === one.hits.findIndex(other => other.lines[0] === hit.lines[0])).slice(0, 3).map(hit => h("div", { className: "hit" },
      h("img", { loading: "lazy", alt: "", src: `/v1/transcriptions/${one.transcription}/pages/${one.page}/lines/${hit.lines[0]}` }),
      h("div", {}, rows(hit.text),
        hit.exact ? null : h("div", { className: "maybe", textContent: `may read ${visible(hit.phrase)}` }))))))));
}

// --- the review -----------------------------------------------------------------------------------------------------

let page = null, base = "", here = 0, ocrOnly = false, inside = true;
const photo = new Image();
const same = (one, other) => one.line === other.line && one.start === other.start && one.end === other.end;

async function review(id, number) {
  base = `/v1/transcriptions/${id}/pages/${number}`;
  photo.alt = "the photograph";
  photo.src = `${base}/picture`;
  photo.onload = drawCrop;
  page = await call(base);
  document.title = `${visible(page.name)} – fusion`;
  const frame = h("div", { className: "frame" }, photo);
  const overlay = svg("svg", { viewBox: `0 0 ${page.width} ${page.height}`, preserveAspectRatio: "none", id: "overlay" });
  frame.append(overlay);
  const ways = h("select", { ariaLabel: "Export" }, h("option", { textContent: "Export as …", value: "" }), page.formats.map(name => h("option", { textContent: name, value: name })));
  ways.onchange = () => { if (ways.value) location.href = `/v1/transcriptions/${id}?format=${ways.value}`; ways.value = ""; };
  const question = h("input", { placeholder: "Ask about this page", ariaLabel: "Ask about this page", maxLength: 2000 }), answer = h("div", { className: "answer", hidden: true, id: "answer" });
  const asking = h("form", {}, question, h("button", { textContent: "Ask" }));
  asking.onsubmit = event => { event.preventDefault(); act(async () => {
    const said = await post("/v1/ask", { id, page: number, question: question.value });
    answer.hidden = false;
    answer.replaceChildren(rows(said.text), ...(said.note ? [h("small", { textContent: visible(said.note) })] : []));
  }); };
  const remove = h("button", { className: "danger", textContent: "Delete" });
  remove.onclick = () => ask(`Delete ${visible(page.name)} with its photograph, text and corrections? It can't be brought back.`, ["Delete"], () => act(async () => {
    await call(`/v1/transcriptions/${id}`, { method: "DELETE" });
    location.href = "/";
  }));
  const others = page.pages < 2 ? [] : [...Array(page.pages).keys()].map(n => h("a", { href: `/review/${id}?page=${n + 1}`, textContent: n + 1 === number ? `[${n + 1}]` : n + 1 }));
  main.replaceChildren(h("div", { className: "review" }, h("div", { className: "left" }, h("div", { className: "photo" }, frame), h("ol", { className: "queue", id: "queue" })), h("div", {},
    h("div", { className: "card", id: "card" }), h("ol", { className: "lines", id: "lines" }), h("ul", { className: "legend", id: "legend" }),
    h("div", { id: "fields" }), h("div", { className: "tools" }, ...others, ways, asking, remove), answer)));
  show();
  if (location.hash) focusLine(location.hash.slice(1));
}

function show() {
  here = Math.max(0, Math.min(here, page.queue.length - 1));
  drawLines(); drawOverlay(); drawCard(); drawQueue(); drawFields();
  const left = page.queue.length;
  say(left ? `${left} to look at · ${page.stretches} stretches` : "Everything has been looked at.");
}

/** A line in pieces that neither a span nor a doubtful stretch cuts. */
function pieces(line) {
  const text = line.spans.map(span => span.text).join(""), length = [...text].length;
  const doubts = page.queue.filter(item => item.line === line.id);
  const cuts = [...new Set([0, length, ...line.spans.flatMap(s => [s.start, s.end]), ...doubts.flatMap(d => [d.start, d.end])])].sort((a, b) => a - b);
  return cuts.slice(0, -1).map((start, n) => ({ text: part(text, start, cuts[n + 1]),
    span: line.spans.find(s => s.start <= start && start < s.end), doubt: doubts.find(d => d.start <= start && start < d.end) }));
}

function drawLines() {
  const current = page.queue[here];
  $("lines").replaceChildren(...page.lines.map(line => {
    const remarks = page.checks.filter(check => check.places.some(place => place.line === line.id));
    const ocr = line.readings.find(reading => reading.by === "ocr");
    const shown = ocrOnly ? [visible(ocr ? ocr.text : "—")] : line.spans.length ? pieces(line).map(piece => drawPiece(piece, current)) : [h("span", { className: "unread", textContent: "nobody could read this line" })];
    const row = h("li", { id: line.id, data: { line: line.id }, className: current && inside && current.line === line.id ? "here" : "" }, h("bdi", {}, shown),
      remarks.map(check => h("span", { className: "remark", textContent: visible(check.message) })));
    row.onclick = () => focusLine(line.id);
    return row;
  }));
  const used = new Set(page.lines.flatMap(line => line.spans.map(span => span.source)));
  $("legend").className = "lines legend";
  $("legend").replaceChildren(...Object.entries(page.sources).filter(([source]) => used.has(source)).map(([source, mark]) => h("li", {}, h("span", { className: `by-${source}`, textContent: source }), ` ${mark.meaning}`)));
}

function drawPiece({ text, span, doubt }, current) {
  const made = h("span", { className: `by-${span.source}`, textContent: visible(text) });
  made.title = [span.source, span.because, percent(span.confidence), span.by].filter(Boolean).map(visible).join(" · ");
  if (span.mark === "deleted") made.classList.add("struck");
  if (doubt) {
    made.classList.add("doubt");
    made.style.setProperty("--unsure", `${Math.round(20 + 60 * (1 - (doubt.confidence ?? 0)))}%`);
    if (current && inside && same(doubt, current)) made.classList.add("here");
    made.onclick = event => { event.stopPropagation(); go(page.queue.indexOf(doubt)); };
  }
  return made;
}

const points = polygon => polygon.map(point => point.join(",")).join(" ");
function drawOverlay() {
  const current = inside ? page.queue[here] : null;
  $("overlay").replaceChildren(...page.lines.map(line => {
    const todo = page.queue.some(item => item.line === line.id);
    const made = svg("polygon", { points: points(line.polygon), class: `${todo ? "todo" : ""} ${current && current.line === line.id ? "here" : ""}`, "data-line": line.id });
    made.onclick = () => focusLine(line.id);
    return made;
  }), ...(current ? [svg("polygon", { points: points(current.polygon), class: "stretch" })] : []));
}

function drawCard() {
  const item = page.queue[here], card = $("card");
  card.classList.toggle("nothing", !item);
  if (!item) { card.replaceChildren("Nothing on this page needs a look."); return; }
  const choices = item.choices.map((choice, n) => {
    const calibrated = n === 0 && item.choices[0].text === item.text;
    const made = h("button", { data: { choice: n }, title: calibrated ? "calibrated probability" : "the reader's own probability, not calibrated" },
      h("kbd", { textContent: n + 1 }), visible(choice.text) || "∅", h("small", { textContent: (calibrated ? "" : "~") + percent(choice.probability) }));
    made.onclick = event => { if (event.detail < 2) decide(item, choice.text); }; // a double click is one choice
    return made;
  });
  const typed = h("input", { id: "typed", placeholder: "F2: type", ariaLabel: "what stands there", autocomplete: "off", spellcheck: false });
  typed.onkeydown = event => {
    event.stopPropagation();
    if (composes(event)) return;
    if (event.key === "Enter") { event.preventDefault(); if (!event.repeat) decide(item, typed.value); }
    if (event.key === "Escape") typed.blur();
  };
  const reads = item.readings.map(reading => h("span", {}, `${reading.by}: `, h("b", { textContent: visible(reading.text) || "∅" }), "  "));
  card.replaceChildren(h("canvas", { id: "crop" }), h("div", { className: "reads" }, reads),
    h("div", { className: "why", textContent: `${here + 1} of ${page.queue.length} · ${item.reasons.map(visible).join("; ")}` }), h("div", { className: "choices" }, choices, typed));
  drawCrop();
}

/** What is to be looked at, the dearest first, with the reason. */
function drawQueue() {
  $("queue").replaceChildren(...page.queue.map((item, n) => {
    const made = h("li", { className: inside && n === here ? "here" : "" }, h("b", { textContent: visible(item.text.trim()) || "∅" }), h("span", { textContent: visible(item.reasons.join("; ")) }));
    made.onclick = () => go(n);
    return made;
  }));
  $("queue").children[here]?.scrollIntoView({ block: "nearest" });
}

/** The stretch with what stands around it, enlarged, out of the photograph that is already here. */
function drawCrop() {
  const canvas = $("crop"), item = page && page.queue[here];
  if (!canvas || !item || !photo.naturalWidth) return;
  const box = polygon => { const xs = polygon.map(p => p[0]), ys = polygon.map(p => p[1]); return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)]; };
  const [left, top, right, bottom] = box(item.polygon), tall = bottom - top, room = Math.max(2 * tall, (4.2 * tall - (right - left)) / 2);
  const scale = photo.naturalWidth / page.width, x = Math.max(0, left - room), y = Math.max(0, top - 0.25 * tall);
  const wide = Math.min(page.width, right + room) - x, high = Math.min(page.height, bottom + 0.25 * tall) - y;
  const zoom = Math.min(560 / wide, 150 / high);
  canvas.width = Math.round(wide * zoom); canvas.height = Math.round(high * zoom);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(photo, x * scale, y * scale, wide * scale, high * scale, 0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#d62828"; pen.lineWidth = 2; pen.beginPath();
  item.polygon.forEach(([px, py], n) => pen[n ? "lineTo" : "moveTo"]((px - x) * zoom, (py - y) * zoom));
  pen.closePath(); pen.stroke();
}

const columns = { medication: ["drug", "strength"], sum: ["sum"], question: ["number", "question", "answer"], formula: ["formula"] };
function drawFields() {
  const tables = Object.entries(columns).map(([kind, names]) => {
    const records = page.records.filter(record => record.kind === kind);
    if (!records.length) return null;
    const rest = kind === "medication" ? ["sig"] : [];
    return h("table", { className: "fields" }, h("thead", {}, h("tr", {}, ["", ...names, ...rest, ""].map(name => h("th", { textContent: name })))), h("tbody", {}, records.map(record => {
      const lines = [...new Set(record.fields.flatMap(field => field.places.map(place => place.line)))];
      const cells = [...names.map(name => record.fields.filter(field => field.name === name)), ...rest.map(() => record.fields.filter(field => ![...names, "item"].includes(field.name)))];
      const remarks = page.checks.filter(check => check.places.some(place => lines.includes(place.line)));
      return h("tr", {}, h("td", {}, lines.map(line => h("img", { loading: "lazy", alt: "", src: `${base}/lines/${line}` }))),
        cells.map(fields => h("td", { className: fields.length > 2 ? "wide" : "" }, fields.map(drawField))), h("td", {}, remarks.map(check => h("div", { className: "maybe", textContent: visible(check.message) }))));
    })));
  });
  const general = [...page.checks.filter(check => !check.places.length).map(check => check.message), ...page.findings, ...page.failures];
  const shown = [...tables.filter(Boolean), ...(general.length ? [h("ul", {}, general.map(text => h("li", { textContent: visible(text) })))] : [])];
  $("fields").replaceChildren(...(shown.length ? [h("h2", { textContent: "Fields and remarks" }), ...shown] : []));
}
function drawField(field) {
  const doubt = page.queue.findIndex(item => field.places.some(place => place.line === item.line && place.start < item.end && item.start < place.end));
  const made = h("span", { className: doubt < 0 ? "field" : "field doubt", textContent: visible(field.text), title: field.name });
  if (doubt >= 0) made.onclick = () => go(doubt);
  return made;
}

// --- moving and deciding ----------------------------------------------------------------------------------------------

function go(number) {
  inside = true;
  here = Math.max(0, Math.min(number, page.queue.length - 1));
  show();
  const item = page.queue[here];
  if (item) $(item.line)?.scrollIntoView({ block: "nearest" });
}
function focusLine(id) {
  const first = page.queue.findIndex(item => item.line === id);
  if (first >= 0) { go(first); return; }
  document.querySelectorAll(".here").forEach(one => one.classList.remove("here"));
  document.querySelectorAll(`[data-line="${CSS.escape(id)}"]`).forEach(one => one.classList.add("here"));
  $(id)?.scrollIntoView({ block: "nearest" });
}
const who = () => $("who").value.trim() || "unnamed";
const edit = (item, text) => ({ line: item.line, start: item.start, end: item.end, old: item.text, text: text.normalize("NFC") });
/** Save what was decided when `item` was shown; nothing if it has been decided, or changed, by the time. */
const keep = (item, edits) => actUnlessFailed(async () => {
  if (!page.queue.some(one => same(one, item) && one.text === item.text)) return;
  page = await post(`${base}/corrections`, { by: who(), corrections: edits });
  const again = page.queue.findIndex(one => same(one, item));
  go(again < 0 ? here : again + 1 < page.queue.length ? again + 1 : again);
});
const decide = (item, text) => keep(item, [edit(item, text)]);
/** Whether a key belongs to an input method: its Enter ends a word, not the entry. */
const composes = event => event.isComposing || event.keyCode === 229;
const illegible = item => "□".repeat(Math.max(1, [...item.text].length));

/** A question with a button for each way; keys 1 to 9 and Enter choose. */
function ask(text, ways, done) {
  const dialog = $("question");
  dialog.querySelector("p").textContent = text;
  dialog.querySelector(".choices").replaceChildren(...ways.map((way, n) => {
    const made = h("button", { autofocus: n === 0 }, h("kbd", { textContent: n + 1 }), visible(way) || "∅");
    made.onclick = () => { dialog.close(); done(n); };
    return made;
  }));
  dialog.onkeydown = event => { event.stopPropagation(); dialog.querySelectorAll(".choices button")[event.key - 1]?.click(); };
  dialog.showModal();
}
function settle() {
  const item = page.queue[here], key = one => JSON.stringify([one.text, one.choices.map(choice => choice.text)]);
  const alike = page.queue.filter(one => key(one) === key(item));
  ask(`Settle all ${alike.length} disputes of this page that read “${visible(item.text)}” with the same choices as:`, item.choices.map(choice => choice.text),
    n => keep(item, alike.map(one => edit(one, one.choices[n].text))));
}

document.addEventListener("keydown", event => {
  if (event.key === "?" && event.target.tagName !== "INPUT") { $("keys").showModal(); return; }
  if (!page || event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const item = page.queue[here];
  const keys = {
    n: () => go(here + 1), p: () => go(here - 1),
    f: () => { ocrOnly = !ocrOnly; show(); },
    u: () => actUnlessFailed(async () => { page = await post(`${base}/undo`, { by: who(), decision: page.decision }); show(); }),
    Escape: () => { inside = false; show(); },
  };
  if (inside && item) Object.assign(keys, {
    Tab: () => go(here + (event.shiftKey ? -1 : 1)),
    Enter: () => decide(item, item.choices.length ? item.choices[0].text : item.text), x: () => decide(item, illegible(item)), a: settle,
    F2: () => { $("typed").value = item.text.trim(); $("typed").select(); },
  });
  const leaves = event.key === "Tab" && (event.shiftKey ? here === 0 : here === page.queue.length - 1);
  const does = /^[1-9]$/.test(event.key) ? item && item.choices[event.key - 1] && (() => decide(item, item.choices[event.key - 1].text)) : keys[event.key];
  if (!does || leaves || (event.repeat && !["n", "p", "Tab"].includes(event.key)) || (event.key === "Enter" && event.target.closest("button, a"))) return;
  event.preventDefault();
  does();
});

// --- the door ---------------------------------------------------------------------------------------------------------

$("help").onclick = () => $("keys").showModal();
$("who").value = localStorage.getItem("who") ?? "";
$("who").onchange = () => localStorage.setItem("who", $("who").value);
$("who").onkeydown = event => { if (composes(event)) return; if (event.key === "Enter" || event.key === "Escape") $("who").blur(); };
$("login").querySelector("form").onsubmit = async event => {
  event.preventDefault();
  const reply = await fetch("/v1/session", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token: $("login").querySelector("input").value }) });
  if (reply.ok) location.reload(); else $("login").querySelector("p").textContent = "That is not the token.";
};
const asked = new URLSearchParams(location.search), [, kind, id] = location.pathname.split("/");
act(() => kind === "review" ? review(id, Number(asked.get("page") ?? 1)) : kind === "search" ? find(asked.get("q") ?? "") : list());
