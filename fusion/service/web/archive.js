// The list of uploads, and what a search finds among them.
"use strict";

const PROFILES = ["general", "prescription", "homework"];
const when = created => new Date(created).toLocaleString();

async function list() {
  const files = h("input", { type: "file", multiple: true, accept: "image/*,.pdf", id: "files" });
  const options = PROFILES.map(name => h("option", { value: name, textContent: name }));
  const profile = h("select", { id: "profile", ariaLabel: "What it is" }, options);
  const drop = h("div", { className: "drop" },
    h("p", { textContent: "Drop photographs or PDFs here, or" }), files, " as ", profile);
  const uploads = h("ul", { className: "rows" });
  files.onchange = () => act(() => send([...files.files]));
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondragover = event => {
    event.preventDefault();
    drop.classList.add("over");
  };
  drop.ondrop = event => {
    event.preventDefault();
    drop.classList.remove("over");
    act(() => send([...event.dataTransfer.files]));
  };
  main.replaceChildren(drop, h("h2", { textContent: "Archive" }), uploads);
  await refresh();

  async function refresh() {
    const known = await call("/v1/transcriptions");
    uploads.replaceChildren(...known.map(drawUpload));
    if (known.some(one => one.status === "waiting")) setTimeout(() => act(refresh), 1000);
  }

  async function send(chosen) {
    const form = new FormData();
    chosen.forEach(file => form.append("file", file));
    form.append("profile", profile.value);
    say("Reading …");
    const made = await call("/v1/transcriptions", { method: "POST", body: form });
    say("");
    if (made.id) location.href = `/review/${made.id}`;
    else await refresh();
  }
}

function drawUpload(one) {
  const name = visible(one.name), done = one.status === "done";
  return h("li", {},
    done ? h("a", { href: `/review/${one.id}`, textContent: name }) : name,
    done ? (one.page_count > 1 ? `${one.page_count} pages` : "") : one.status,
    h("span", { className: "when", textContent: `${one.profile} · ${when(one.created)}` }),
    one.problem ? h("span", { className: "problem", textContent: visible(one.problem) }) : null);
}

async function find(query) {
  $("find").q.value = query;
  const found = await call(`/v1/search?q=${encodeURIComponent(query)}`);
  say(found.length ? `${found.length} ${found.length === 1 ? "page" : "pages"}` : "Nothing found.");
  main.replaceChildren(h("ul", { className: "rows" }, found.map(drawFound)));
}

function drawFound(one) {
  const first = (hit, n) => n === one.hits.findIndex(other => other.lines[0] === hit.lines[0]);
  const link = `/review/${one.transcription}?page=${one.page}#${one.hits[0].lines[0]}`;
  return h("li", {},
    h("a", { href: link, textContent: visible(one.name) }),
    h("span", { className: "when", textContent: when(one.created) }),
    one.hits.filter(first).slice(0, 3).map(hit => drawHit(one, hit)));
}

function drawHit(one, hit) {
  const crop = `/v1/transcriptions/${one.transcription}/pages/${one.page}/lines/${hit.lines[0]}`;
  const [before, ...after] = hit.stands ? hit.text.split(hit.stands) : [hit.text];
  const marked = after.length ? h("mark", { textContent: rows(hit.stands) }) : null;
  const instead = `${orNothing(hit.stands)} may read ${visible(hit.phrase)}`;
  return h("div", { className: "hit" },
    h("img", { loading: "lazy", alt: "", src: crop }),
    h("div", {}, rows(before), marked, rows(after.join(hit.stands)),
      hit.exact ? null : h("div", { className: "maybe", textContent: instead })));
}
