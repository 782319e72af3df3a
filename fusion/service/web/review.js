// The review of one page: photograph, transcript, card of the stretch in hand, queue, fields and remarks.
"use strict";

let page = null, base = "", here = 0, ocrOnly = false, inside = true;
const photo = new Image();
const same = (one, other) => one.line === other.line && one.start === other.start && one.end === other.end;
const touches = (place, item) => place.line === item.line && place.start < item.end && item.start < place.end;
const current = () => inside ? page.queue[here] : undefined;
const RED = "#d62828"; // the stretch in hand; as `--hand` of page.css
const COLUMNS = {
  medication: ["drug", "strength", "sig"], sum: ["sum"], question: ["number", "question", "answer"], formula: ["formula"],
};
const CONTEXT = 14; // code points around a stretch in what a reader has

async function review(id, number) {
  base = `/v1/transcriptions/${id}/pages/${number}`;
  photo.alt = "the photograph";
  photo.onload = drawCrop;
  photo.src = `${base}/picture`;
  page = await call(base);
  document.title = `${visible(page.name)} – fusion`;
  const size = `0 0 ${page.width} ${page.height}`;
  const overlay = svg("svg", { viewBox: size, preserveAspectRatio: "none", id: "overlay" });
  main.replaceChildren(h("div", { className: "review" },
    h("div", { className: "left" },
      h("div", { className: "photo" }, h("div", { className: "frame" }, photo, overlay)),
      h("ol", { className: "queue", id: "queue" })),
    h("div", { className: "right" },
      h("div", { className: "card", id: "card" }),
      h("ol", { className: "lines", id: "lines" }),
      h("ul", { className: "legend", id: "legend" }),
      h("div", { id: "fields" }),
      h("div", { className: "tools" }, pageLinks(id, number), exporting(id), asking(id, number), deleting(id)),
      h("div", { className: "answer", hidden: true, id: "answer" }))));
  show();
  if (location.hash) focusLine(location.hash.slice(1));
}

function show() {
  const left = page.queue.length;
  here = Math.max(0, Math.min(here, left - 1));
  drawLines();
  drawOverlay();
  drawCard();
  drawQueue();
  drawFields();
  say(left ? `${left} to look at · ${page.stretches} stretches` : "Everything has been looked at.");
}

// --- what can be done with a page ---------------------------------------------------------------------------------

function pageLinks(id, number) {
  if (page.page_count < 2) return [];
  const numbers = [...Array(page.page_count).keys()].map(n => n + 1);
  return numbers.map(n => h("a", { href: `/review/${id}?page=${n}`, textContent: n === number ? `[${n}]` : n }));
}

function exporting(id) {
  const ways = h("select", { ariaLabel: "Export" },
    h("option", { textContent: "Export as …", value: "" }),
    page.formats.map(name => h("option", { textContent: name, value: name })));
  ways.onchange = () => {
    if (ways.value) location.href = `/v1/transcriptions/${id}?format=${ways.value}`;
    ways.value = "";
  };
  return ways;
}

function asking(id, number) {
  const label = "Ask about this page";
  const question = h("input", { placeholder: label, ariaLabel: label, maxLength: 2000, required: true });
  const form = h("form", {}, question, h("button", { textContent: "Ask" }));
  form.onsubmit = event => {
    event.preventDefault();
    act(async () => {
      const said = await post("/v1/ask", { id, page: number, question: question.value });
      const note = said.note ? h("small", { textContent: visible(said.note) }) : "";
      $("answer").replaceChildren(rows(said.text), note);
      $("answer").hidden = false;
    });
  };
  return form;
}

function deleting(id) {
  const remove = h("button", { className: "danger", textContent: "Delete" });
  const question = `Delete ${visible(page.name)} with its photograph, text and corrections? It can't be brought back.`;
  remove.onclick = () => ask(question, ["Delete"], () => act(async () => {
    await call(`/v1/transcriptions/${id}`, { method: "DELETE" });
    location.href = "/";
  }));
  return remove;
}

// --- the transcript -------------------------------------------------------------------------------------------------

function drawLines() {
  $("lines").replaceChildren(...page.lines.map(drawLine));
  const used = new Set(page.lines.flatMap(line => line.spans.map(span => span.source)));
  const sources = Object.entries(page.sources).filter(([source]) => used.has(source));
  $("legend").className = "lines legend";
  $("legend").replaceChildren(...sources.map(([source, mark]) =>
    h("li", {}, h("span", { className: `by-${source}`, textContent: source }), `: ${mark.meaning}`)));
}

function drawLine(line) {
  const remarks = page.checks.filter(check => check.places.some(place => place.line === line.id));
  const row = h("li", { id: line.id, data: { line: line.id }, className: current()?.line === line.id ? "here" : "" },
    h("bdi", {}, textOf(line)),
    remarks.map(check => h("span", { className: "remark", textContent: visible(check.message) })));
  row.onclick = () => focusLine(line.id);
  return row;
}

function textOf(line) {
  if (ocrOnly) return [visible(line.readings.find(reading => reading.by === "ocr")?.text ?? "—")];
  if (!line.spans.length) return [h("span", { className: "unread", textContent: "nobody could read this line" })];
  return pieces(line).map(drawPiece);
}

/** A line in pieces that neither a span nor a doubtful stretch cuts. */
function pieces(line) {
  const text = line.spans.map(span => span.text).join("");
  const doubts = page.queue.filter(item => item.line === line.id);
  const ends = [...line.spans, ...doubts].flatMap(one => [one.start, one.end]);
  const cuts = [...new Set([0, [...text].length, ...ends])].sort((a, b) => a - b);
  const at = start => one => one.start <= start && start < one.end;
  return cuts.slice(0, -1).map((start, n) => ({
    text: part(text, start, cuts[n + 1]), span: line.spans.find(at(start)), doubt: doubts.find(at(start)),
  }));
}

function drawPiece({ text, span, doubt }) {
  const made = h("span", { className: `by-${span.source}`, textContent: visible(text) });
  made.title = [span.source, span.because, percent(span.confidence), span.by].filter(Boolean).map(visible).join(" · ");
  if (span.mark === "deleted") made.classList.add("struck");
  if (doubt) {
    made.classList.add("doubt");
    made.style.setProperty("--unsure", `${Math.round(20 + 60 * (1 - (doubt.confidence ?? 0)))}%`);
    if (current() && same(doubt, current())) made.classList.add("here");
    made.onclick = event => {
      event.stopPropagation();
      go(page.queue.indexOf(doubt));
    };
  }
  return made;
}

// --- the photograph -------------------------------------------------------------------------------------------------

const points = polygon => polygon.map(point => point.join(",")).join(" ");

function drawOverlay() {
  const item = current();
  const drawn = page.lines.map(line => {
    const todo = page.queue.some(one => one.line === line.id) ? "todo" : "";
    const marked = item?.line === line.id ? "here" : "";
    const made = svg("polygon", { points: points(line.polygon), class: `${todo} ${marked}`, "data-line": line.id });
    made.onclick = () => focusLine(line.id);
    return made;
  });
  if (item) drawn.push(svg("polygon", { points: points(item.polygon), class: "stretch" }));
  $("overlay").replaceChildren(...drawn);
}

/** The stretch with what stands around it, enlarged, out of the photograph that is already here. */
function drawCrop() {
  const canvas = $("crop"), item = page?.queue[here];
  if (!canvas || !item || !photo.naturalWidth) return;
  const xs = item.polygon.map(point => point[0]), ys = item.polygon.map(point => point[1]);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const tall = bottom - top, room = Math.max(2 * tall, (4.2 * tall - (right - left)) / 2);
  const x = Math.max(0, left - room), y = Math.max(0, top - 0.25 * tall);
  const wide = Math.min(page.width, right + room) - x, high = Math.min(page.height, bottom + 0.25 * tall) - y;
  const zoom = Math.min(560 / wide, 150 / high), scale = photo.naturalWidth / page.width;
  canvas.width = Math.round(wide * zoom);
  canvas.height = Math.round(high * zoom);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(photo, x * scale, y * scale, wide * scale, high * scale, 0, 0, canvas.width, canvas.height);
  pen.strokeStyle = RED;
  pen.lineWidth = 2;
  pen.beginPath();
  item.polygon.forEach(([px, py], n) => pen[n ? "lineTo" : "moveTo"]((px - x) * zoom, (py - y) * zoom));
  pen.closePath();
  pen.stroke();
}

// --- the card and the queue -------------------------------------------------------------------------------------------

function drawCard() {
  const item = page.queue[here], card = $("card");
  card.classList.toggle("nothing", !item);
  if (!item) {
    card.replaceChildren("Nothing on this page needs a look.");
    return;
  }
  const why = `${here + 1} of ${page.queue.length} · ${item.reasons.map(visible).join("; ")}`;
  card.replaceChildren(
    h("canvas", { id: "crop" }),
    h("div", { className: "why", textContent: why }),
    h("div", { className: "reads" }, item.readings.flatMap(drawReading)),
    h("div", { className: "choices" }, item.choices.map((choice, n) => drawChoice(item, choice, n)), typing(item)));
  drawCrop();
}

/** What a reader has at the stretch, set so that the stretches of all readers stand below each other. */
function drawReading({ by, before, text, after }) {
  const left = [...before], right = [...after];
  return [
    h("span", { textContent: by }),
    h("bdi", { textContent: visible((left.length > CONTEXT ? "…" : "") + left.slice(-CONTEXT).join("")) }),
    h("b", { textContent: orNothing(text) }),
    h("bdi", { textContent: visible(right.slice(0, CONTEXT).join("") + (right.length > CONTEXT ? "…" : "")) }),
  ];
}

function drawChoice(item, choice, n) {
  const calibrated = n === 0 && choice.text === item.text;
  const title = calibrated ? "calibrated probability" : "the reader's own probability, not calibrated";
  const made = h("button", { data: { choice: n }, title }, h("kbd", { textContent: n + 1 }), orNothing(choice.text),
    h("small", { textContent: (calibrated ? "" : "~") + percent(choice.probability) }));
  made.onclick = event => {
    if (event.detail < 2) decide(item, choice.text); // a double click is one choice
  };
  return made;
}

function typing(item) {
  const settings = { placeholder: "F2: type", ariaLabel: "what stands there", autocomplete: "off", spellcheck: false };
  const typed = h("input", { id: "typed", ...settings });
  typed.onkeydown = event => {
    event.stopPropagation();
    if (composes(event)) return;
    if (event.key === "Escape") typed.blur();
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (!event.repeat) decide(item, typed.value);
  };
  return typed;
}

/** What is to be looked at, the dearest first, with the reason. */
function drawQueue() {
  const queue = $("queue");
  queue.replaceChildren(...page.queue.map((item, n) => {
    const made = h("li", { className: inside && n === here ? "here" : "" },
      h("b", { textContent: orNothing(item.text) }),
      h("span", { textContent: visible(item.reasons.join("; ")) }));
    made.onclick = () => go(n);
    return made;
  }));
  const row = queue.children[here]; // scrolled in its own box: the page stays where it is
  if (row) queue.scrollTop = row.offsetTop - (queue.clientHeight - row.offsetHeight) / 2;
}

// --- fields and remarks -----------------------------------------------------------------------------------------------

function drawFields() {
  const tables = Object.keys(COLUMNS).map(drawTable).filter(Boolean);
  const general = page.checks.filter(check => !check.places.length).map(check => check.message);
  const texts = [...general, ...page.findings, ...page.failures, page.problem].filter(Boolean);
  const remarks = texts.map(text => h("li", { textContent: visible(text) }));
  const shown = [...tables, ...(remarks.length ? [h("ul", {}, remarks)] : [])];
  $("fields").replaceChildren(...(shown.length ? [h("h2", { textContent: "Fields and remarks" }), ...shown] : []));
}

function drawTable(kind) {
  const records = page.records.filter(record => record.kind === kind);
  if (!records.length) return null;
  const heads = ["", ...COLUMNS[kind]].map(name => h("th", { textContent: name }));
  return h("div", { className: "fields" }, h("table", {},
    h("thead", {}, h("tr", {}, heads)), h("tbody", {}, records.map(drawRecord))));
}

/** The crops of a record, its fields, and below the last one the remarks about them. */
function drawRecord(record) {
  const names = COLUMNS[record.kind], named = record.fields.filter(field => field.name !== "item");
  const cells = names.map(name => named.filter(field =>
    name === "sig" ? !names.includes(field.name) : field.name === name));
  const lines = [...new Set(record.fields.flatMap(field => field.places.map(place => place.line)))];
  const remarks = page.checks.filter(check => check.places.some(place => lines.includes(place.line)));
  const shown = remarks.map(check => h("div", { className: "maybe", textContent: visible(check.message) }));
  return h("tr", {},
    h("td", {}, lines.map(line => h("img", { loading: "lazy", alt: "", src: `${base}/lines/${line}` }))),
    cells.map((fields, n) => h("td", {}, fields.map(drawField), n === cells.length - 1 ? shown : [])));
}

function drawField(field) {
  const doubt = page.queue.findIndex(item => field.places.some(place => touches(place, item)));
  const className = doubt < 0 ? "field" : "field doubt";
  const made = h("span", { className, textContent: visible(field.text), title: field.name });
  if (doubt >= 0) made.onclick = () => go(doubt);
  return made;
}
