// Curves: one chart for each, with one iteration axis and one cursor for all.

const GROUPS = ["score", "loss", "rate", "speed", "other"]; // in this order
const HEIGHT = 190;
const FEW = 60; // points of a curve that are also drawn as dots
const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]]; // further runs repeat the colours with other strokes

const charts = []; // { curve, plot or null, log, draw, ... }
let zoomed = null; // [first, last] iteration; null: all
let bands = true;

function fillCurves(section) {
  const full = iterations();
  if (full === null) return;
  const from = zoomField("from", full);
  const to = zoomField("to", full);
  const reset = el("button", { type: "button", onclick: () => zoom(null) }, "All iterations");
  const tools = el(
    "div",
    { class: "tools" },
    legend([...report.runs.keys()].filter((run) => report.curves.some((curve) => curve.series.some((series) => series.run === run)))),
    el("span", { class: "zoom" }, el("label", {}, "from ", from), el("label", {}, " to ", to), reset),
    report.curves.some((curve) => curve.series.some((series) => series.low))
      ? tick("least and largest values", bands, (on) => ((bands = on), redrawAll()))
      : null,
  );
  section.append(tools, el("p", { class: "hint" }, "Iterations run across. Drag over a chart to zoom all of them; a double click shows everything again."));
  const sorted = GROUPS.flatMap((group) => report.curves.filter((curve) => curve.group === group));
  section.append(el("div", { class: "charts" }, sorted.map((curve) => chart(curve, full))));
  runWatchers.push(redrawAll);
  themeWatchers.push(() => charts.forEach(({ plot }) => plot?.redraw(false)));
  addEventListener("beforeprint", () => charts.forEach((each) => each.make()));

  function zoomField(name, [first, last]) {
    const value = () => String(name === "from" ? (zoomed ?? full)[0] : (zoomed ?? full)[1]);
    const field = el("input", { type: "number", min: first, max: last, step: "any", value: value(), class: "iteration" });
    field.setAttribute("aria-label", `${name} iteration`);
    field.addEventListener("change", () => zoom([Number(from.value), Number(to.value)]));
    charts.fields = [...(charts.fields ?? []), () => (field.value = value())];
    return field;
  }

  function zoom(range) {
    const [first, last] = range ?? full;
    zoomed = first < last && (first > full[0] || last < full[1]) ? [Math.round(first), Math.round(last)] : null;
    charts.fields.forEach((show) => show());
    reset.disabled = zoomed === null;
    for (const { plot } of charts) if (plot) limits(plot, zoomed ?? full);
  }
  reset.disabled = true;
  fillCurves.zoom = zoom;
}

/** The first and last iteration of all curves; null where there is none. */
function iterations() {
  let [first, last] = [Infinity, -Infinity];
  for (const curve of report.curves) {
    for (const { steps } of curve.series) {
      if (steps.length === 0) continue;
      first = Math.min(first, steps[0]);
      last = Math.max(last, steps[steps.length - 1]);
    }
  }
  if (first > last) return null;
  return first === last ? [first - 1, last + 1] : [first, last];
}

function limits(plot, [min, max]) {
  if (plot.scales.x.min !== min || plot.scales.x.max !== max) plot.setScale("x", { min, max });
}

function redrawAll() {
  charts.forEach((each) => each.show());
}

/** The figure of one curve; its chart is made when the figure comes near the window. */
function chart(curve, full) {
  const values = el("span", { class: "values" });
  const place = el("div", { class: "plot" });
  const logButton = el("button", { type: "button", class: "log", onclick: () => toggleLog() }, "log");
  const figure = el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("span", { class: "name" }, curve.title), values, logButton),
    place,
  );
  const own = { curve, plot: null, log: curve.log, make, show, zoom: (range) => fillCurves.zoom(range) };
  charts.push(own);
  logButton.setAttribute("aria-pressed", own.log);
  logButton.setAttribute("aria-label", `logarithmic axis of ${curve.title}`);
  if (!curve.series.every((series) => series.values.every((value) => value === null || value > 0))) logButton.hidden = true;
  new ResizeObserver(() => own.plot?.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  whenNear(figure, make);
  readOut(null);
  return figure;

  function make() {
    if (own.plot !== null) return;
    own.plot = new uPlot(chartOptions(own, place.clientWidth, full, readOut), aligned(curve), place);
    limits(own.plot, zoomed ?? full);
    show();
  }

  function toggleLog() {
    own.log = !own.log;
    logButton.setAttribute("aria-pressed", own.log);
    if (own.plot === null) return;
    own.plot.destroy();
    own.plot = null;
    make();
  }

  function show() {
    readOut(null);
    if (own.plot === null) return;
    own.plot.batch(() => {
      own.plot.series.forEach((series, index) => {
        if (index === 0) return;
        const visible = shownRuns.has(series.run) && (bands || !series.edge);
        if (series.show !== visible) own.plot.setSeries(index, { show: visible });
      });
    });
  }

  /** Writes the value of each run at an iteration, of the last one where none is given. */
  function readOut(step) {
    const shown = curve.series.filter((series) => shownRuns.has(series.run) && series.steps.length > 0);
    values.replaceChildren(
      ...shown.map((series) => {
        const at = step === null ? series.steps.length - 1 : nearest(series.steps, step);
        return el("span", { title: `${report.runs[series.run].name}, iteration ${count(series.steps[at])}` }, swatch(series.run), short(series.values[at]));
      }),
      step === null || shown.length === 0 ? "" : el("span", { class: "at" }, `at ${count(shown[0].steps[nearest(shown[0].steps, step)])}`),
    );
  }
}

/** The index of the step that is nearest. */
function nearest(steps, wanted) {
  let [low, high] = [0, steps.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - steps[low - 1] <= steps[low] - wanted ? low - 1 : low;
}

/** The series on one common list of iterations, as uPlot has it: for each the values, then its edges if it has them. */
function aligned(curve) {
  const tables = curve.series.map(({ steps, values, low, high }) => (low ? [steps, values, high, low] : [steps, values]));
  return tables.length === 1 ? tables[0] : uPlot.join(tables);
}

function chartOptions(own, width, full, readOut) {
  const series = [{}];
  const areas = [];
  for (const { run, low, steps } of own.curve.series) {
    const colour = () => styled(`--run-${run % COLOURS}`);
    const dash = DASHES[Math.floor(run / COLOURS) % DASHES.length];
    series.push({ run, stroke: colour, width: 1.4, dash, points: { show: steps.length <= FEW, size: 4, fill: colour } });
    if (!low) continue;
    const edge = { run, edge: true, stroke: "transparent", width: 0, points: { show: false } };
    series.push({ ...edge }, { ...edge });
    areas.push({ series: [series.length - 2, series.length - 1], fill: () => styled(`--run-${run % COLOURS}`, 0.18) });
  }
  const axis = (extra) => ({
    stroke: () => styled("--muted"),
    grid: { stroke: () => styled("--grid"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
    ...extra,
  });
  return {
    width,
    height: HEIGHT,
    series,
    bands: areas,
    padding: [8, 18, 0, 0],
    legend: { show: false },
    scales: { x: { time: false, range: () => zoomed ?? full }, y: own.log ? { distr: 3 } : {} },
    axes: [
      axis({ size: 26, gap: 4, values: (plot, splits) => splits.map(iterationText), space: 70 }),
      axis({ size: 58, gap: 5, values: (plot, splits) => splits.map((value) => (value === null ? "" : short(value))), space: 28 }),
    ],
    cursor: {
      // a chart that hears of another's dragging would zoom a second time
      sync: { key: "iterations", scales: ["x", null], filters: { sub: (type) => type === "mousemove" || type === "mouseleave" } },
      drag: { x: true, y: false, dist: 4, setScale: false },
      y: false,
      points: { size: 6 },
      bind: { dblclick: () => () => own.zoom(null) },
    },
    hooks: {
      setCursor: [(plot) => readOut(plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null)],
      setSelect: [
        (plot) => {
          const { left, width: wide } = plot.select;
          if (wide < 4) return;
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          own.zoom([plot.posToVal(left, "x"), plot.posToVal(left + wide, "x")]);
        },
      ],
    },
  };
}

/** 250000 -> "250k". */
function iterationText(value) {
  return Math.abs(value) >= 1000 && value % 100 === 0 ? `${value / 1000}k` : String(value);
}
