// The head of the page, its contents, and which sections there are.

const SECTIONS = [
  ["curves", "Curves", () => report.curves.some((curve) => curve.series.some((series) => series.steps.length > 0)), fillCurves],
  ["scores", "Scores", () => report.sets.length > 0, fillScores],
  ["pictures", "Pictures", () => report.pictures.some((picture) => picture.panels.length > 0), fillPictures],
  ["analyses", "Analyses", () => report.analyses.length > 0, fillAnalyses],
  ["options", "Options", () => report.runs.some((run) => Object.keys(run.options).length > 0), fillOptions],
  ["repeat", "How to repeat it", () => true, fillRepeat],
];

function fillHead(head) {
  head.append(
    el("h1", {}, report.title),
    el("p", { class: "made" }, `Made ${report.made}`),
    ...[verdicts(), report.runs.length > 0 ? runTable() : null].filter((part) => part !== null),
  );
  const notes = report.runs.flatMap((run, index) => (run.notes ?? []).map((note) => el("li", {}, report.runs.length > 1 ? [swatch(index), `${run.name}: `] : null, note)));
  if (notes.length) head.append(el("ul", { class: "notes" }, notes));
}

/** A figure for each data set: the best network's mean, what it gains, and how far it is from what is published. */
function verdicts() {
  const figures = report.sets.slice(0, 8).map((set) => {
    const [metric, second] = set.metrics;
    const scored = set.methods.filter((method) => method !== "bicubic" && typeof set.mean[method]?.[metric?.name] === "number");
    if (scored.length === 0) return null;
    const best = scored.reduce((a, b) => (better(metric, set.mean[b][metric.name], set.mean[a][metric.name]) ? b : a));
    const value = set.mean[best][metric.name];
    const gained = gain(set, set.mean, best);
    const published = set.published?.scores[metric.name];
    const other = second ? set.mean[best][second.name] : undefined;
    return el(
      "div",
      { class: "verdict" },
      el("div", { class: "set" }, setName(set), report.runs.length > 1 ? [" ", mark(best)] : null),
      el("div", { class: "value" }, fixed(value, metric.places), el("small", {}, ` ${heading(metric)}`)),
      typeof other === "number" ? el("div", {}, `${fixed(other, second.places)} ${heading(second)}`) : null,
      gained === null ? null : el("div", {}, `${signed(gained, metric.places)} over bicubic`),
      typeof published === "number" ? el("div", {}, `${signed(value - published, metric.places)} to published`) : null,
    );
  });
  const shown = figures.filter((figure) => figure !== null);
  if (shown.length === 0) shown.push(...lastScores());
  return shown.length === 0 ? null : el("div", { class: "verdicts" }, shown);
}

/** Where nothing was tested: the last and the best value of each curve of scores. */
function lastScores() {
  return report.curves
    .filter((curve) => curve.group === "score")
    .slice(0, 6)
    .flatMap((curve) =>
      curve.series.slice(0, 1).map((series) => {
        const last = series.values.findLastIndex((value) => value !== null);
        if (last < 0) return null;
        return el(
          "div",
          { class: "verdict" },
          el("div", { class: "set" }, curve.title, report.runs.length > 1 ? [" ", swatch(series.run)] : null),
          el("div", { class: "value" }, short(series.values[last])),
          el("div", {}, `at iteration ${count(series.steps[last])}`),
        );
      }),
    )
    .filter((figure) => figure !== null);
}

function runTable() {
  const rows = report.runs.map((run, index) =>
    el(
      "tr",
      {},
      el("th", { scope: "row", class: "first" }, swatch(index), breakable(run.name)),
      el("td", {}, run.kind === "train" ? "training" : "test"),
      el("td", {}, run.options["network_g.type"] ?? "–"),
      el("td", { class: "number" }, progress(run)),
      el("td", { class: "path" }, breakable(run.folder)),
    ),
  );
  const heads = ["run", "kind", "network", "iterations", "folder"].map((text, index) => el("th", { scope: "col", class: index === 0 ? "first" : index === 3 ? "number" : "" }, text));
  return el("div", { class: "scroll" }, el("table", { class: "runs" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows)));
}

function progress(run) {
  if (run.iteration === null) return "–";
  return run.total_iter === null ? count(run.iteration) : `${count(run.iteration)} of ${count(run.total_iter)}`;
}

function fillContents(nav, sections) {
  const links = sections.map(([id, title]) => el("a", { href: `#${id}` }, title));
  nav.append(el("div", { class: "links" }, links), themeButton());
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) links.forEach((link) => link.toggleAttribute("aria-current", link.getAttribute("href") === `#${entry.target.id}`));
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  sections.forEach(([id]) => watch.observe(byId(id)));
}

function start() {
  fillHead(byId("head"));
  const there = SECTIONS.filter(([, , exists]) => exists());
  fillContents(byId("contents"), there);
  for (const [id, , , fill] of there) {
    const section = byId(id);
    section.hidden = false;
    // the sources of pictures stand behind this program, and may be megabytes
    if (id === "pictures" && document.readyState === "loading") addEventListener("DOMContentLoaded", () => fill(section));
    else fill(section);
  }
}

start();
