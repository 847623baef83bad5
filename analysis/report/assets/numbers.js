// Numbers and names as text, and what the parts of the page have in common.

const report = data("report");
const MINUS = "\u2212";

/** 12345 -> "12,345". */
function count(value) {
  return value.toLocaleString("en-US");
}

/** A value with this many digits after the point; a dash where there is none. */
function fixed(value, places) {
  return value === null || value === undefined ? "–" : value.toFixed(places).replace("-", MINUS);
}

/** The same with a sign. */
function signed(value, places) {
  return value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + fixed(value, places);
}

/** A value of a curve: five digits, or a power of ten. */
function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/-/g, MINUS);
  return String(Number(value.toPrecision(5))).replace("-", MINUS);
}

/** A scale as papers write it. */
function times(scale) {
  return `×${scale}`;
}

/** Whether value `a` is better than value `b`. */
function better(metric, a, b) {
  return metric.better === "higher" ? a > b : a < b;
}

/** A metric's name as a heading. */
function heading(metric) {
  return /^(psnr|ssim|niqe|lpips|dists)/i.test(metric.name)
    ? metric.name.replace(/^[a-z]+/i, (word) => word.toUpperCase())
    : metric.name;
}

/** The index of the run that a method is, by its name or as "NAME at ITERATION"; -1 for a method that is no run. */
function runOf(method) {
  return report.runs.findIndex(({ name }) => method === name || (method.startsWith(`${name} at `) && /^[\d,]+$/.test(method.slice(name.length + 4))));
}

/** The coloured mark of a run; nothing for a method that is no run. */
function mark(method) {
  const run = runOf(method);
  return run < 0 ? null : swatch(run);
}

/** A method with its mark, which stays beside the first word where the name is broken. */
function methodName(method) {
  const [first, ...rest] = breakable(method);
  return [el("span", { class: "together" }, mark(method), first), ...rest];
}

/** A run's colour, as a small square. */
function swatch(run) {
  return el("i", { class: "swatch", "data-colour": run % COLOURS, "aria-hidden": "true" });
}

const COLOURS = 8; // --run-0 to --run-7 of the styles

// Which runs are shown, in the curves and in the table of options alike.
const shownRuns = new Set(report.runs.keys());
const runWatchers = [];

/** Buttons that show and hide runs; every legend of the page shows the same state. */
function legend(runs) {
  const buttons = runs.map((index) => {
    const toggle = () => {
      if (shownRuns.has(index)) shownRuns.delete(index);
      else shownRuns.add(index);
      runWatchers.forEach((watch) => watch());
    };
    return el("button", { type: "button", class: "run", onclick: toggle }, swatch(index), report.runs[index].name);
  });
  const draw = () => buttons.forEach((button, place) => button.setAttribute("aria-pressed", shownRuns.has(runs[place])));
  runWatchers.push(draw);
  draw();
  return el("div", { class: "legend", role: "group", "aria-label": "Runs shown" }, buttons);
}
