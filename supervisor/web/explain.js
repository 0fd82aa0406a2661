"use strict";
/* Asks /api/v1/explain/PATH why a worker is as it is, and shows the answer beside the page.
   Whatever comes from workers is inserted as text, never as markup. */

let explained = "";

async function showExplanation(path) {
  const box = byId("explain");
  explained = path;
  say(byId("explain-title"), path);
  byId("explain-facts").replaceChildren(make("p", "dim", "Asking the supervisor …"));
  if (!box.open) box.showModal();
  let content;
  try {
    const reply = await fetch(`/api/v1/explain/${path.split("/").map(encodeURIComponent).join("/")}`);
    const answer = await reply.json();
    content = reply.ok ? explanationOf(answer) : [make("p", "", answer.error || `status ${reply.status}`)];
  } catch (error) {
    content = [make("p", "", `no answer from the supervisor: ${error.message}`)];
  }
  // Another worker may have been asked about meanwhile.
  if (explained === path) byId("explain-facts").replaceChildren(...content);
}

function explanationOf(answer) {
  const now = make("p", "dim", `${answer.state} (${answer.phase}) for ${span(answer.since_s)}`
    + `, should be ${answer.desired_state || "–"}, restarted ${number.format(answer.restarts)} times`);
  return [now, causeOf(answer.why, "why"), ...answer.also.map((cause) => causeOf(cause, "also"))];
}

function causeOf(cause, name) {
  const box = make("section", name);
  box.append(make("p", "", cause.text));
  const facts = make("dl");
  const fact = (title, value) => facts.append(make("dt", "", title), make("dd", "", value));
  fact("rule", cause.rule);
  if (typeof cause.since_s === "number") fact("since", span(cause.since_s));
  if (cause.waits_for.length) fact("waits for", cause.waits_for.join(", "));
  const moment = typeof cause.next_in_s === "number" ? `in ${span(cause.next_in_s)}: ` : "";
  fact("next", `${moment}${cause.next}`);
  // The config says where the pages are; a script's address would run as one.
  if (/^(https?:\/)?\//.test(cause.runbook)) {
    const link = make("a", "", "runbook");
    link.href = cause.runbook;
    link.target = "_blank";
    link.rel = "noreferrer";
    const place = make("dd");
    place.append(link);
    facts.append(make("dt", "", "help"), place);
  }
  box.append(facts);
  return box;
}
