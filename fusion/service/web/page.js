// The door: keys, name and token of the person, and which page it is.
"use strict";

$("help").onclick = () => $("keys").showModal();
$("who").value = localStorage.getItem("who") ?? "";
$("who").onchange = () => localStorage.setItem("who", $("who").value);
$("who").onkeydown = event => {
  if (!composes(event) && ["Enter", "Escape"].includes(event.key)) $("who").blur();
};

$("login").querySelector("form").onsubmit = async event => {
  event.preventDefault();
  const token = $("login").querySelector("input").value;
  const reply = await fetch("/v1/session", sent({ token }));
  if (reply.ok) location.reload();
  else $("login").querySelector("p").textContent = "That is not the token.";
};

act(() => {
  const query = new URLSearchParams(location.search), [, kind, id] = location.pathname.split("/");
  if (kind === "review") return review(id, Number(query.get("page") ?? 1));
  return kind === "search" ? find(query.get("q") ?? "") : list();
});
