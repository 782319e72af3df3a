// Moving through a page and deciding: what the keys do.
"use strict";

function go(number) {
  inside = true;
  here = Math.max(0, Math.min(number, page.queue.length - 1));
  show();
  $(page.queue[here]?.line)?.scrollIntoView({ block: "nearest" });
}

function focusLine(id) {
  const first = page.queue.findIndex(item => item.line === id);
  if (first >= 0) {
    go(first);
    return;
  }
  document.querySelectorAll(".here").forEach(one => one.classList.remove("here"));
  document.querySelectorAll(`[data-line="${CSS.escape(id)}"]`).forEach(one => one.classList.add("here"));
  $(id)?.scrollIntoView({ block: "nearest" });
}

function leave() {
  inside = false;
  show();
}

function flip() {
  ocrOnly = !ocrOnly;
  show();
}

// --- decisions --------------------------------------------------------------------------------------------------------

const edit = ({ line, start, end, text: old }, text) => ({ line, start, end, old, text: text.normalize("NFC") });

/** Save what was decided when `item` was shown; nothing if it has been decided, or changed, by the time. */
function keep(item, edits) {
  return actUnlessFailed(async () => {
    if (!page.queue.some(one => same(one, item) && one.text === item.text)) return;
    page = await post(`${base}/corrections`, { by: await who(), corrections: edits });
    const again = page.queue.findIndex(one => same(one, item));
    go(again < 0 ? here : again + 1 < page.queue.length ? again + 1 : again);
  });
}

const decide = (item, text) => keep(item, [edit(item, text)]);
const accept = item => decide(item, item.choices.length ? item.choices[0].text : item.text);
const markIllegible = item => decide(item, "□".repeat(Math.max(1, [...item.text].length)));

/** Put all disputes of the page that look alike to one question. */
function settle(item) {
  const key = one => JSON.stringify([one.text, one.choices.map(choice => choice.text)]);
  const alike = page.queue.filter(one => key(one) === key(item));
  const question = `Settle all ${alike.length} disputes of this page that read “${visible(item.text)}” with the same choices as:`;
  ask(question, item.choices.map(choice => choice.text),
    n => keep(item, alike.map(one => edit(one, one.choices[n].text))));
}

function type(item) {
  $("typed").value = item.text.trim();
  $("typed").select();
}

function undo() {
  return actUnlessFailed(async () => {
    page = await post(`${base}/undo`, { by: await who(), decision: page.decision });
    show();
  });
}

// --- keys -------------------------------------------------------------------------------------------------------------

/** What a key does on the page; with a stretch in hand more of them do something. */
function meaning(event) {
  const item = page.queue[here];
  if (/^[1-9]$/.test(event.key)) {
    const choice = item?.choices[event.key - 1];
    return choice && (() => decide(item, choice.text));
  }
  const always = { n: () => go(here + 1), p: () => go(here - 1), f: flip, u: undo, Escape: leave };
  if (!inside || !item) return always[event.key];
  const next = here + (event.shiftKey ? -1 : 1);
  return {
    ...always,
    Tab: page.queue[next] && (() => go(next)), // beyond the ends it moves through the page as usual
    Enter: () => accept(item), x: () => markIllegible(item), a: () => settle(item), F2: () => type(item),
  }[event.key];
}

document.addEventListener("keydown", event => {
  if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") {
    $("keys").showModal();
    return;
  }
  const held = event.repeat && !["n", "p", "Tab"].includes(event.key);
  const presses = event.key === "Enter" && event.target.closest("button, a");
  const does = page && !held && !presses && meaning(event);
  if (!does) return;
  event.preventDefault();
  does();
});
