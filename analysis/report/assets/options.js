// Options, what the runs differ in, and how to repeat them.

function fillOptions(section) {
  const keys = [...new Set(report.runs.flatMap((run) => Object.keys(run.options)))];
  if (keys.length === 0) return;
  const several = report.runs.length > 1;
  let only = report.differences.length > 0;
  const search = el("input", { type: "search", placeholder: "filter keys and values", oninput: () => draw() });
  search.setAttribute("aria-label", "filter options");
  const found = el("span", { class: "muted", role: "status" });
  const head = el("tr");
  const body = el("tbody");
  const table = el("table", {}, el("thead", {}, head), body);
  section.append(
    el("div", { class: "tools" }, several ? legend([...report.runs.keys()]) : null, search, several ? tick("only what differs", only, (on) => ((only = on), draw())) : null, found),
    el("div", { class: "scroll tall", tabIndex: 0, role: "region", "aria-label": "Options" }, table),
  );
  runWatchers.push(draw);
  draw();

  function draw() {
    const runs = [...report.runs.keys()].filter((index) => shownRuns.has(index));
    const wanted = search.value.trim().toLowerCase();
    head.replaceChildren(
      el("th", { scope: "col", class: "first" }, "option"),
      ...runs.map((index) => el("th", { scope: "col" }, several ? methodName(report.runs[index].name) : report.runs[index].name)),
    );
    table.className = only ? "options only" : "options"; // where all rows differ, none is marked
    const rows = [];
    for (const key of keys) {
      const values = runs.map((index) => report.runs[index].options[key]);
      const differs = isDifference(runs, values);
      if (only && !differs) continue;
      if (wanted && ![key, ...values].some((text) => text?.toLowerCase().includes(wanted))) continue;
      rows.push(optionRow(key, values, differs));
    }
    body.replaceChildren(...rows);
    found.textContent = rows.length === keys.length ? `${keys.length} options` : `${rows.length} of ${keys.length} options`;
  }
}

/** Whether an option is not the same in all runs, or not set in one of a kind; a test has no options of training. */
function isDifference(runs, values) {
  if (new Set(values.filter((value) => value !== undefined)).size > 1) return true;
  const known = (index) => Object.keys(report.runs[runs[index]].options).length > 0; // of others nothing is known
  const of = (kind) => values.filter((_, index) => known(index) && report.runs[runs[index]].kind === kind);
  return ["train", "test"].some((kind) => new Set(of(kind)).size > 1);
}

function optionRow(key, values, differs) {
  const cut = key.lastIndexOf(".") + 1;
  const name = [el("span", { class: "muted" }, key.slice(0, cut)), key.slice(cut)];
  return el(
    "tr",
    { class: differs ? "differs" : "" },
    el("th", { scope: "row", class: "first" }, name),
    values.map((value) => el("td", { class: value === undefined ? "absent" : "" }, value === undefined ? "not set" : value)),
  );
}

function fillRepeat(section) {
  section.append(el("p", {}, "This page:"), copyable(report.command));
  for (const [index, run] of report.runs.entries()) {
    const facts = el("dl", { class: "facts" });
    for (const [name, value] of [...Object.entries(run.hardware), ...Object.entries(run.versions)]) {
      facts.append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
    }
    section.append(
      el("h3", {}, report.runs.length > 1 ? swatch(index) : null, run.name, el("span", { class: "muted" }, ` ${run.folder}`)),
      run.command === null ? el("p", { class: "hint" }, "The command of this run is not on record.") : copyable(run.command),
      facts,
    );
  }
}
