"use strict";
(() => {
  // Whatever a model wrote reaches the page as text nodes only: nothing here parses HTML.
  const PER_PAGE = 10;
  const FOLDED_CHARS = 600, FOLDED_LINES = 9;
  let examples = [];
  const byId = (id) => document.getElementById(id);

  // On a phone a table's rows are stacked, each cell under its column's name (style.css).
  for (const table of document.querySelectorAll(".wide table")) {
    const columns = [...table.querySelectorAll("thead th")].map((head) => head.textContent);
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, k) => { if (k) cell.dataset.column = columns[k]; });
    }
    table.classList.add("stacked");
  }
  if (!byId("open")) return;
  const filters = [...document.querySelectorAll("#filters select")];
  let page = 0;

  async function unpacked() {
    const found = byId("examples");
    if (found.type === "application/json") return JSON.parse(found.textContent);
    const letters = atob(found.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function make(tag, className, ...children) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  function chip(text, kind) {
    return text ? make("span", kind ? "chip " + kind : "chip", text) : null;
  }

  function words(example) {
    if (example.words === undefined) {
      const answers = [example.initial, ...example.rounds.map((round) => round.revision), ...example.answers];
      const texts = [
        example.id, example.category, example.source,
        ...example.messages.map((turn) => turn.text),
        ...answers.filter(Boolean).map((answer) => answer.text),
        ...example.rounds.flatMap((round) => [round.principle, round.critique]),
        ...example.dropped.flatMap((loss) => [loss.stage, loss.reason, loss.detail]),
      ];
      Object.defineProperty(example, "words", { value: texts.join("\n").toLowerCase() });
    }
    return example.words;
  }

  function matching() {
    const wanted = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return examples.filter((example) =>
      filters.every((select) => !select.value || example[select.dataset.key] === select.value) &&
      wanted.every((word) => words(example).includes(word)));
  }

  function plainText(content) {
    const shown = make("div", "text", content || "(no text)");
    shown.dir = "auto";
    if (content.length <= FOLDED_CHARS && content.split("\n").length <= FOLDED_LINES) return shown;
    shown.classList.add("long");
    const more = make("button", "folded", "Show all of it");
    more.type = "button";
    more.addEventListener("click", () => { more.textContent = shown.classList.toggle("long") ? "Show all of it" : "Show less"; });
    return make("div", "whole", shown, more);
  }

  function textOf(content, folds) {
    const shown = plainText(content);
    if (!folds || !content || byId("unfold").checked) return shown;
    const button = make("button", "folded", "Folded: may be harmful. Show");
    button.type = "button";
    button.addEventListener("click", () => button.replaceWith(shown));
    return button;
  }

  function box(title, answer) {
    const verdict = answer.harmful === null ? null : answer.harmful ? chip("harmful", "bad") : chip("harmless", "good");
    const scores = Object.entries(answer.scores || {})
      .filter(([name]) => name !== "harmful")
      .map(([name, value]) => chip(name.replaceAll("_", " ") + " " + value));
    const flags = (answer.flags || []).map((flag) => chip(flag.replaceAll("_", " "), "warn"));
    const tone = answer.harmful === null ? "box" : answer.harmful ? "box harmful" : "box harmless";
    const head = make("h4", "", make("span", "", title), make("span", "", ...[verdict, ...scores, ...flags].filter(Boolean)));
    return make("div", tone, head, textOf(answer.text, answer.fold));
  }

  function roundOf(round, index, folds) {
    const critique = make("div", "box", make("h4", "", "Critique"), textOf(round.critique, folds));
    return make("div", "round",
      make("h4", "", "Round " + (index + 1) + ", principle ", make("b", "", round.principle)),
      make("div", "boxes", round.critique ? critique : null, box("Revision", round.revision)));
  }

  function roundsOf(example) {
    if (!example.rounds.length) return null;
    const drawn = make("details", "", make("summary", "", "All " + example.rounds.length + " rounds, with critiques"));
    drawn.addEventListener("toggle", () => {
      if (!drawn.open || drawn.childElementCount > 1) return;
      const unknown = example.kind === "red_team" && example.initial.harmful === null;
      drawn.append(...example.rounds.map((round, index) => roundOf(round, index, unknown)));
    });
    return drawn;
  }

  function dialogue(example) {
    const outcome = { "made safer": "good", "still harmful": "bad", dropped: "bad" }[example.outcome];
    const chips = [
      chip(example.outcome, outcome), chip(example.kind.replaceAll("_", " ")), chip(example.category),
      chip(example.source), chip(example.split), chip(example.id.slice(0, 12)),
    ].filter(Boolean);
    const turns = example.messages.map((turn) => make("div", "turn", make("span", "who", turn.role), plainText(turn.text)));
    const last = example.rounds.at(-1);
    const before = example.initial ? box("Initial answer", example.initial) : null;
    const after = last ? box("After " + example.rounds.length + (example.rounds.length > 1 ? " rounds" : " round"), last.revision) : null;
    const losses = example.dropped.map((loss) => make("p", "why", "Dropped by " + loss.stage + ": " + loss.reason + ". " + loss.detail));
    const policies = example.answers.map((answer) => box(answer.title, answer));
    return make("article", "dialogue",
      make("div", "chips", ...chips), ...turns, ...losses,
      before ? make("div", "boxes", before, after) : null,
      roundsOf(example),
      policies.length ? make("h3", "", "The policies' answers") : null,
      policies.length ? make("div", "boxes", ...policies) : null);
  }

  function show() {
    const found = matching();
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    const first = page * PER_PAGE;
    byId("list").replaceChildren(...found.slice(first, first + PER_PAGE).map(dialogue));
    byId("count").textContent = found.length
      ? (first + 1) + "–" + Math.min(first + PER_PAGE, found.length) + " of " + found.length + " dialogues"
      : "No dialogue matches.";
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
  }

  function turn(by) {
    page += by;
    show();
    byId("filters").scrollIntoView();
  }

  function restart() {
    page = 0;
    show();
  }

  byId("open").addEventListener("click", async () => {
    examples = await unpacked();
    byId("notice").hidden = true;
    byId("browser").hidden = false;
    show();
  });
  byId("filters").addEventListener("input", restart);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
})();
