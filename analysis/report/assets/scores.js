// Scores: a table for each data set, a row for each image, sortable by any column.

let openPicture = null; // (index) => void, where there are pictures

function fillScores(section) {
  const panels = report.sets.map((set) => scoreTable(set));
  if (panels.length > 1) {
    const tabs = report.sets.map((set, index) =>
      el("button", { type: "button", role: "tab", id: `tab-${index}`, "aria-controls": `set-${index}`, onclick: () => select(index) }, setName(set)),
    );
    const list = el("div", { class: "tabs", role: "tablist", "aria-label": "Data sets" }, tabs);
    list.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const next = (tabs.findIndex((tab) => tab.tabIndex === 0) + step + tabs.length) % tabs.length;
      select(next);
      tabs[next].focus();
    });
    section.append(list);
    function select(chosen) {
      tabs.forEach((tab, index) => {
        tab.setAttribute("aria-selected", index === chosen);
        tab.tabIndex = index === chosen ? 0 : -1;
        panels[index].classList.toggle("closed", index !== chosen);
      });
    }
    panels.forEach((panel, index) => {
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", `tab-${index}`);
      panel.id = `set-${index}`;
    });
    select(0);
  }
  section.append(...panels);
}

/** "Set5 ×4". */
function setName(set) {
  return `${set.name} ${times(set.scale)}`;
}

/** The scores of a method over bicubic upsampling: the metric that ranks images, and the methods that have them. */
function gains(set) {
  if (!set.methods.includes("bicubic") || set.metrics.length === 0) return [];
  return set.methods.filter((method) => method !== "bicubic");
}

/** What a method gains over bicubic upsampling in the first metric, positive where it is better; null without scores. */
function gain(set, scores, method) {
  const metric = set.metrics[0];
  const [ours, theirs] = [scores[method]?.[metric.name], scores.bicubic?.[metric.name]];
  if (typeof ours !== "number" || typeof theirs !== "number") return null;
  return metric.better === "higher" ? ours - theirs : theirs - ours;
}

/** The columns of a set's table: what each shows of a row's scores. */
function columns(set) {
  const all = [];
  for (const metric of set.metrics) {
    for (const method of set.methods) {
      all.push({ group: heading(metric), metric, method, value: (scores) => scores[method]?.[metric.name] ?? null, text: (value) => fixed(value, metric.places) });
    }
  }
  const group = set.metrics.length ? `gain, ${heading(set.metrics[0])}` : "";
  for (const method of gains(set)) {
    all.push({ group, method, value: (scores) => gain(set, scores, method), text: (value) => signed(value, set.metrics[0].places) });
  }
  return all;
}

/** Marks the best value of each metric among the cells of a row, and the second where there are three or more. */
function emphasise(set, cells, all, scores) {
  for (const metric of set.metrics) {
    const own = all.map((column, index) => ({ column, index })).filter(({ column }) => column.metric === metric);
    const values = own.map(({ column }) => column.value(scores)).map((value) => (value === null ? null : Number(value.toFixed(metric.places))));
    const there = values.filter((value) => value !== null);
    if (there.length < 2) continue;
    const [first, second] = [...new Set(there)].sort((a, b) => (better(metric, a, b) ? -1 : 1));
    own.forEach(({ index }, place) => {
      cells[index].classList.toggle("best", values[place] === first);
      cells[index].classList.toggle("second", there.length > 2 && values[place] === second);
    });
  }
}

function scoreTable(set) {
  const all = columns(set);
  const body = el("tbody");
  const rows = set.images.map((image, place) => scoreRow(set, all, image, place));
  const order = { column: null, down: false };
  const heads = [];
  const sizes = (image) => image.size[0] * image.size[1];
  const keys = [(row) => row.image.name, (row) => sizes(row.image), ...all.map((column) => (row) => column.value(row.image.scores))];

  const sorted = (index, label, classes) => {
    const head = el("th", { scope: "col", class: classes }, el("button", { type: "button", onclick: () => sort(index) }, label));
    heads.push(head);
    return head;
  };
  const top = el("tr", {}, sorted(0, "image", "first"), sorted(1, "size", "size"));
  top.querySelectorAll("th").forEach((head) => (head.rowSpan = 2));
  const second = el("tr");
  let last = null;
  all.forEach((column, index) => {
    const starts = column.group !== last;
    if (starts) top.append(el("th", { scope: "colgroup", class: "group starts", colSpan: all.filter((each) => each.group === column.group).length }, column.group));
    last = column.group;
    column.starts = starts;
    second.append(sorted(index + 2, methodName(column.method), starts ? "starts" : ""));
  });
  const table = el("table", { class: "scores" }, el("thead", {}, top, second), body, el("tfoot", {}, footRows(set, all)));
  rows.forEach((row) => all.forEach((column, index) => row.cells[index].classList.toggle("starts", column.starts)));
  body.append(...rows.map((row) => row.element));

  function sort(index) {
    // names begin with a, numbers with the largest; a second click turns the order round
    order.down = order.column === index ? !order.down : index > 0;
    order.column = index;
    const key = keys[index];
    const turn = order.down ? -1 : 1;
    rows.sort((a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === null || right === null) return (left === null) - (right === null) || a.place - b.place;
      const found = typeof left === "string" ? left.localeCompare(right, "en", { numeric: true }) : left - right;
      return found * turn || a.place - b.place;
    });
    body.append(...rows.map((row) => row.element));
    heads.forEach((head, place) => {
      if (place === index) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  const search = el("input", { type: "search", placeholder: "filter images", oninput: () => narrow() });
  search.setAttribute("aria-label", `filter the images of ${setName(set)}`);
  function narrow() {
    const wanted = search.value.trim().toLowerCase();
    for (const row of rows) row.element.hidden = !row.image.name.toLowerCase().includes(wanted);
  }
  const scroller = el("div", { class: "scroll tall", tabIndex: 0, role: "region", "aria-label": `Scores of ${setName(set)}` }, table);
  const caption = el("div", { class: "tools" }, el("h3", {}, setName(set)), el("span", { class: "muted" }, `${count(set.images.length)} images`), set.images.length > 10 ? search : null);
  const source = set.published ? el("p", { class: "hint" }, `Published: ${set.published.variant}, ${set.published.source}.`) : null;
  return el("div", { class: "set" }, caption, scroller, source, faults(set));
}

function scoreRow(set, all, image, place) {
  const cells = all.map((column) => {
    const value = column.value(image.scores);
    const cell = el("td", {}, column.text(value));
    if (value === null && image.fault?.[column.method]) cell.title = image.fault[column.method];
    return cell;
  });
  emphasise(set, cells, all, image.scores);
  const name =
    image.picture === null || image.picture === undefined
      ? image.name
      : el("button", { type: "button", class: "link", onclick: () => openPicture?.(image.picture) }, breakable(image.name));
  const [height, width] = image.size;
  return {
    image,
    place,
    cells,
    element: el("tr", {}, el("th", { scope: "row", class: "first" }, name), el("td", { class: "size" }, `${width}×${height}`), cells),
  };
}

/** The mean over the images, and what is published. */
function footRows(set, all) {
  const cells = all.map((column) => el("td", { class: column.starts ? "starts" : "" }, column.text(column.value(set.mean))));
  emphasise(set, cells, all, set.mean);
  const rows = [el("tr", { class: "mean" }, el("th", { scope: "row", class: "first" }, "mean"), el("td", { class: "size" }), cells)];
  if (!set.published) return rows;
  const published = el("tr", { class: "published" }, el("th", { scope: "row", class: "first" }, "published"), el("td", { class: "size" }));
  for (const metric of set.metrics) {
    const value = set.published.scores[metric.name] ?? null;
    published.append(el("td", { class: "starts", colSpan: set.methods.length }, fixed(value, metric.places)));
  }
  if (gains(set).length) published.append(el("td", { class: "starts", colSpan: gains(set).length }));
  return [...rows, published];
}

/** A sentence for each image that has no score. */
function faults(set) {
  const found = set.images.flatMap((image) => Object.entries(image.fault ?? {}).map(([method, why]) => `${image.name}, ${method}: ${why}`));
  return found.length === 0 ? null : el("ul", { class: "faults" }, found.map((line) => el("li", {}, line)));
}
