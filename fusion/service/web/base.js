// What every page needs: making elements, calling the API, one thing after the other.
// Texts of pages reach the document as text nodes only.
"use strict";

const $ = id => document.getElementById(id);
const main = $("main");

/** Characters that could move or hide text, made visible; as `visible` of fusion/output/marks.py. */
const visible = text => text.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]|\p{Cs}/gu, c =>
  c < " "
    ? String.fromCharCode(0x2400 + c.charCodeAt(0))
    : `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
const rows = text => text.split("\n").map(visible).join("\n");
const orNothing = text => visible(text.trim()) || "∅";
const percent = value => value === null ? "?" : value >= 1 ? "100 %" : `${Math.floor(100 * value)} %`;
/** Part of a text; places count code points. */
const part = (text, start, end) => [...text].slice(start, end).join("");

/** An HTML element with its properties, `data` attributes and children; null is no child. */
function h(tag, { data, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, data);
  made.append(...children.flat().filter(child => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  return made;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function call(path, settings = {}) {
  const reply = await fetch(path, settings);
  if (reply.status === 401) {
    $("login").showModal();
    throw new Error("The token is missing.");
  }
  if (reply.status === 204) return null;
  const body = await reply.json().catch(() => ({ detail: "The service does not answer as it should." }));
  if (!reply.ok) throw new Error(body.detail);
  return body;
}

const sent = body => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
});
const post = (path, body) => call(path, sent(body));

let work = Promise.resolve(), failures = 0;

/** One thing after the other: a key that comes while a correction is being saved waits for it. */
function act(step) {
  work = work.then(step).catch(error => {
    failures++;
    say(error.message, true);
  });
  return work;
}

/** As `act`, but not after a failure that its caller had not seen: what follows a lost decision would meet another text. */
function actUnlessFailed(step) {
  const seen = failures;
  return act(() => seen === failures ? step() : null);
}

/** Whether a key belongs to an input method: its Enter ends a word, not the entry. */
const composes = event => event.isComposing || event.keyCode === 229;

/** A question with a button for each way; keys 1 to 9 and Enter choose. */
function ask(text, ways, done) {
  const dialog = $("question"), choices = dialog.querySelector(".choices");
  dialog.querySelector("p").textContent = text;
  choices.replaceChildren(...ways.map((way, n) => {
    const made = h("button", { autofocus: n === 0 }, h("kbd", { textContent: n + 1 }), orNothing(way));
    made.onclick = () => {
      dialog.close();
      done(n);
    };
    return made;
  }));
  dialog.onkeydown = event => {
    event.stopPropagation();
    choices.children[event.key - 1]?.click();
  };
  dialog.showModal();
}

/** Who decides; asked for once, and kept by the browser. */
async function who() {
  const known = $("who").value.trim();
  if (known) return known;
  const dialog = $("named");
  dialog.showModal();
  await new Promise(closed => { dialog.onclose = closed; });
  const name = dialog.returnValue === "named" ? dialog.querySelector("input").value.trim() : "";
  if (!name) throw new Error("Nothing is kept without a name.");
  $("who").value = name;
  localStorage.setItem("who", name);
  return name;
}
