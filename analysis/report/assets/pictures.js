// Pictures: two methods of one image under a divider, and the same part of all methods, enlarged.

const CROP_SIDES = [24, 32, 48, 64, 96, 128];
const KEPT = 40; // decoded pictures at hand; a large set has thousands
const LARGEST = 3; // screen pixels for a pixel when a small picture fills the frame

/** The place of each picture in the tables of scores: { set, scores }. */
function scoresOfPictures() {
  const found = new Map();
  for (const set of report.sets) {
    for (const image of set.images) {
      if (image.picture !== null && image.picture !== undefined && !found.has(image.picture)) found.set(image.picture, { set, scores: image.scores });
    }
  }
  return found;
}

const loaded = new Map(); // address -> promise of a decoded picture, the latest last

function load(address) {
  const known = loaded.get(address);
  loaded.delete(address);
  const promise = known ?? decode(address);
  loaded.set(address, promise);
  if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
  return promise;
}

async function decode(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return image;
}

/** The full picture where it lies beside the page, else the one in the page: { image, address }. */
async function panelImage(source) {
  if (source.full !== null) {
    try {
      return { image: await load(source.full), address: source.full };
    } catch {
      loaded.delete(source.full); // the page was moved without its folder
    }
  }
  return { image: await load(source.src), address: source.src };
}

/** Whether a picture's pixels are those that were measured: PNG, or WebP without loss. */
function isLossless(address) {
  if (address.startsWith("data:image/webp;base64,")) return atob(address.slice(23, 47)).slice(12, 16) === "VP8L";
  return /^data:image\/png|\.png$/i.test(address);
}

function fillPictures(section) {
  const places = scoresOfPictures();
  const view = { order: [], index: null, left: null, right: null, crop: null, turn: 0, sources: null };
  const strip = el("div", { class: "strip", role: "group", "aria-label": "Images" });
  const thumbs = report.pictures.map((picture, index) => thumbnail(picture, index, strip, () => show(index)));

  // --- which images, in which order
  const choices = { set: "", by: "0", method: "" };
  const sets = [...new Set(report.pictures.map((picture) => picture.set))];
  const methods = [...new Set([...places.values()].flatMap(({ set }) => set.methods.filter((method) => method !== "bicubic")))];
  choices.method = methods[0] ?? "";
  const orders = orderings(places, choices);
  choices.by = orders.find(([, , key]) => report.pictures.some((_, index) => key(index) !== null))?.[0] ?? "as tested";
  const shown = el("span", { class: "muted", role: "status" });
  section.append(
    el(
      "div",
      { class: "tools" },
      sets.length > 1 ? choice("set", [["", "all"], ...sets.map((set) => [set, set])], "", (value) => ((choices.set = value), arrange(true))) : null,
      choice("order", orders.map(([name]) => [name, name]), choices.by, (value) => ((choices.by = value), arrange(true))),
      methods.length > 1 ? choice("of", methods.map((method) => [method, method]), choices.method, (value) => ((choices.method = value), arrange(true))) : null,
      shown,
    ),
    strip,
  );

  // --- the frame with the divider
  const name = el("h3", { tabIndex: -1 });
  const where = el("span", { class: "muted" });
  const sides = { left: el("select"), right: el("select") };
  sides.left.setAttribute("aria-label", "method on the left");
  sides.right.setAttribute("aria-label", "method on the right");
  sides.left.addEventListener("change", () => ((view.left = sides.left.value), drawFrame()));
  sides.right.addEventListener("change", () => ((view.right = sides.right.value), drawFrame()));
  const swap = el("button", { type: "button", onclick: () => (([view.left, view.right] = [view.right, view.left]), drawFrame()) }, "⇄");
  swap.setAttribute("aria-label", "exchange left and right");
  const images = { left: el("img", { slot: "first", alt: "", draggable: false }), right: el("img", { slot: "second", alt: "", draggable: false }) };
  const grip = el("div", { slot: "handle", class: "grip" });
  const slider = el("img-comparison-slider", { role: "slider" }, images.left, images.right, grip);
  slider.setAttribute("handle", "true"); // a click beside the divider moves the crop
  slider.setAttribute("keyboard", "disabled"); // arrows alone go to other images
  slider.setAttribute("aria-label", "divider; shift and an arrow move it");
  slider.addEventListener("slide", () => sayDivider());
  const box = el("div", { class: "box", tabIndex: 0, role: "group", "aria-label": "the part shown enlarged; arrows move it" });
  const frame = el("div", { class: "frame" }, slider, box);
  const size = choice("size", [["fit", "fit"], ["1", "1:1"], ["2", "2:1"], ["4", "4:1"]], "fit", () => layFrame());
  const step = (by) => el("button", { type: "button", onclick: () => move(by) }, by < 0 ? "←" : "→");
  const [back, next] = [step(-1), step(1)];
  back.setAttribute("aria-label", "previous image");
  next.setAttribute("aria-label", "next image");

  // --- the grid of crops
  const grid = el("div", { class: "grid" });
  const exactly = el("p", { class: "hint", role: "status" });
  const cropSide = choice("part", [["own", ""], ["moved", "moved"], ...CROP_SIDES.map((side) => [side, `${side} × ${side}`])], "own", (value) => resizeCrop(value));
  const [cropSelect, ownPart, movedPart] = [cropSide.querySelector("select"), ...cropSide.querySelectorAll("option")];
  const enlarge = el("button", { type: "button", onclick: () => openGrid() }, "Enlarge");
  const viewer = el(
    "div",
    { class: "viewer" },
    el(
      "div",
      { class: "stage" },
      el("div", { class: "tools" }, back, next, name, where),
      el("div", { class: "tools" }, sides.left, swap, sides.right, size),
      el("div", { class: "frames", tabIndex: -1 }, frame),
      el("p", { class: "hint" }, "Drag the divider. A click moves the part that is enlarged. Keys: ← → other image, Shift ← → divider."),
    ),
    el("div", { class: "parts" }, el("div", { class: "tools" }, cropSide, enlarge), grid, exactly),
  );
  section.append(viewer);

  let pressed = null;
  slider.addEventListener("pointerdown", (event) => (pressed = { x: event.clientX, y: event.clientY, grip: event.target === grip || nearDivider(event) }));
  slider.addEventListener("click", (event) => {
    const dragged = pressed !== null && (pressed.grip || Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > 4);
    pressed = null;
    if (dragged) return;
    const area = slider.getBoundingClientRect();
    const { width, height } = reference();
    const [, , w, h] = view.crop;
    placeCrop(((event.clientX - area.left) / area.width) * width - w / 2, ((event.clientY - area.top) / area.height) * height - h / 2, w, h);
  });
  document.addEventListener("keydown", (event) => keyed(event));
  new ResizeObserver(() => layFrame()).observe(frame.parentElement);
  openPicture = (index) => {
    if (choices.set && report.pictures[index].set !== choices.set) {
      choices.set = "";
      section.querySelector("select").value = "";
      arrange(false);
    }
    show(index);
    viewer.scrollIntoView({ block: "start" });
    name.focus({ preventScroll: true });
  };
  fillPictures.view = view;
  arrange(true);

  function nearDivider(event) {
    const area = grip.getBoundingClientRect();
    return event.clientX >= area.left && event.clientX <= area.right;
  }

  function arrange(first) {
    const key = orders.find(([each]) => each === choices.by);
    const chosen = [...report.pictures.keys()].filter((index) => !choices.set || report.pictures[index].set === choices.set);
    view.order = key === undefined || key[1] === 0 ? chosen : sortedBy(chosen, key[2], key[1]);
    thumbs.forEach((thumb, index) => thumb.describe(places.get(index), choices.method));
    strip.replaceChildren(...view.order.map((index) => thumbs[index].element));
    shown.textContent = view.order.length === 1 ? "1 image" : `${count(view.order.length)} images`;
    if (first && view.order.length > 0) show(view.order[0]);
  }

  function move(by) {
    const place = view.order.indexOf(view.index);
    const other = view.order[Math.min(Math.max(place + by, 0), view.order.length - 1)];
    if (other !== undefined && other !== view.index) show(other);
  }

  function reference() {
    const { panels } = report.pictures[view.index];
    return panels.find((panel) => panel.label === "HR") ?? panels[panels.length - 1];
  }

  function show(index) {
    view.index = index;
    view.sources = data(`picture-${index}`);
    const picture = report.pictures[index];
    const labels = picture.panels.map((panel) => panel.label);
    const network = labels.find((label) => runOf(label) >= 0) ?? labels[labels.length - 1];
    view.left = labels.includes(view.left) ? view.left : labels.includes("bicubic") ? "bicubic" : labels[0];
    view.right = labels.includes(view.right) ? view.right : network;
    for (const [side, select] of Object.entries(sides)) select.replaceChildren(...labels.map((label) => el("option", { value: label }, label)));
    ownPart.textContent = picture.crop === null ? "centre" : "of largest gain";
    movedPart.hidden = true;
    cropSelect.value = "own";
    const { width, height } = reference();
    view.crop = ownCrop(picture);
    const place = view.order.indexOf(index);
    name.textContent = picture.image;
    where.textContent = `${picture.set}, ${place + 1} of ${view.order.length}, ${width}×${height}`;
    [back.disabled, next.disabled] = [place <= 0, place === view.order.length - 1];
    thumbs.forEach((thumb, each) => thumb.element.setAttribute("aria-pressed", each === index));
    const thumb = thumbs[index].element;
    strip.scrollLeft = thumb.offsetLeft - strip.offsetLeft - (strip.clientWidth - thumb.clientWidth) / 2;
    drawFrame();
    layFrame();
    drawCrops();
  }

  async function drawFrame() {
    const [picture, turn] = [report.pictures[view.index], ++view.turn];
    sides.left.value = view.left;
    sides.right.value = view.right;
    const panelOf = (label) => picture.panels.findIndex((panel) => panel.label === label);
    const [left, right] = await Promise.all([view.left, view.right].map((label) => panelImage(view.sources.panels[panelOf(label)]).catch(() => null)));
    if (turn !== view.turn) return; // another one was asked for meanwhile
    for (const [image, found, label] of [[images.left, left, view.left], [images.right, right, view.right]]) {
      if (found !== null) image.src = found.address;
      image.alt = found === null ? `${label} of ${picture.image} cannot be shown` : `${label} of ${picture.image}`;
    }
    sharpen();
    sayDivider();
  }

  function sayDivider() {
    slider.setAttribute("aria-valuenow", Math.round(slider.value));
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} % ${view.left}, the rest ${view.right}`);
  }

  /** Sets the size of the frame, and of the box in it. */
  function layFrame() {
    if (view.index === null) return;
    const { width, height } = reference();
    const zoom = size.querySelector("select").value;
    frame.style.width =
      zoom === "fit" ? `min(100%, ${width * LARGEST}px, ${((68 * width) / height).toFixed(3)}vh)` : `${(width * Number(zoom)) / devicePixelRatio}px`;
    frame.style.aspectRatio = `${width} / ${height}`;
    const [left, top, w, h] = view.crop;
    const percent = (part, whole) => `${(100 * part) / whole}%`;
    box.style.cssText = `left:${percent(left, width)};top:${percent(top, height)};width:${percent(w, width)};height:${percent(h, height)}`;
    sharpen();
  }

  /** Pixels stay pixels where one of the picture's takes two of the screen or more. */
  function sharpen() {
    for (const image of Object.values(images)) {
      if (image.naturalWidth > 0) image.classList.toggle("pixels", frame.clientWidth * devicePixelRatio >= 2 * image.naturalWidth);
    }
  }

  function resizeCrop(value) {
    const picture = report.pictures[view.index];
    const [left, top, w, h] = view.crop;
    const side = Number(value);
    if (value === "own") placeCrop(...ownCrop(picture));
    else if (value !== "moved") placeCrop(left + (w - side) / 2, top + (h - side) / 2, side, side);
  }

  function placeCrop(left, top, w, h) {
    const { width, height } = reference();
    const inside = (value, whole, part) => Math.round(Math.min(Math.max(value, 0), whole - part));
    [w, h] = [Math.min(w, width), Math.min(h, height)];
    view.crop = [inside(left, width, w), inside(top, height, h), w, h];
    if (cropSelect.value === "own" && ownCrop(report.pictures[view.index]).some((value, index) => value !== view.crop[index])) {
      movedPart.hidden = false; // "of largest gain" can then be chosen again
      cropSelect.value = "moved";
    }
    layFrame();
    drawCrops();
  }

  /** The part that the page shows first. */
  function ownCrop(picture) {
    const { width, height } = reference();
    return picture.crop ?? centred(width, height, 64);
  }

  function keyed(event) {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (by === undefined || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    if (target === box) {
      const [left, top, w, h] = view.crop;
      const far = event.shiftKey ? 1 : Math.max(1, Math.round(w / 4));
      placeCrop(left + by[0] * far, top + by[1] * far, w, h);
    } else if (by[0] !== 0 && !target.closest("input, select, .scroll, [role=tablist]") && (target === document.body || target.closest("#pictures, #enlarged, #main") !== null)) {
      if (event.shiftKey) slider.value = Math.min(Math.max(slider.value + 5 * by[0], 0), 100);
      else move(by[0]);
      sayDivider();
    } else return;
    event.preventDefault();
  }

  function drawCrops() {
    fillGrid(grid, view).then((note) => (exactly.textContent = note));
    const dialog = byId("enlarged");
    if (dialog.open && dialog.grid) showGrid();
  }

  function openGrid() {
    showGrid();
    byId("enlarged").showModal();
  }

  function showGrid() {
    const dialog = byId("enlarged");
    const large = el("div", { class: "grid large" });
    dialog.grid = true;
    const picture = report.pictures[view.index];
    dialog.replaceChildren(dialogHead(dialog, `${picture.image}, ${picture.set}`), large);
    large.style.gridTemplateColumns = fittingColumns(picture.panels.length, view.crop[2] / view.crop[3]);
    fillGrid(large, view);
  }
}

/** The columns of the enlarged grid, so that its cells are as large as the window can hold at once. */
function fittingColumns(cells, ratio) {
  const [width, height] = [Math.min(0.96 * innerWidth, 1500) - 38, 0.94 * innerHeight - 60];
  const side = (columns) => Math.min(width / columns - 12, (height / Math.ceil(cells / columns) - 76) * ratio);
  const columns = Array.from({ length: cells }, (_, index) => index + 1).reduce((a, b) => (side(b) > side(a) ? b : a));
  return side(columns) >= 160 ? `repeat(${columns}, ${Math.floor(side(columns))}px)` : "repeat(auto-fill, minmax(160px, 1fr))";
}

function centred(width, height, side) {
  const [w, h] = [Math.min(side, width), Math.min(side, height)];
  return [(width - w) >> 1, (height - h) >> 1, w, h];
}

/** What images can be ordered by: [name, direction, key of a picture]; those without a value come last. */
function orderings(places, choices) {
  const gained = (index) => {
    const place = places.get(index);
    return place === undefined ? null : gain(place.set, place.scores, choices.method);
  };
  const scored = (metric) => (index) => places.get(index)?.scores[choices.method]?.[metric.name] ?? null;
  const metrics = new Map([...places.values()].flatMap(({ set }) => set.metrics.map((metric) => [metric.name, metric])));
  const all = [...places.values()].some(({ set }) => gains(set).length > 0) ? [["smallest gain first", 1, gained], ["largest gain first", -1, gained]] : [];
  for (const metric of metrics.values()) {
    const up = metric.better === "higher" ? 1 : -1;
    all.push([`worst ${heading(metric)} first`, up, scored(metric)], [`best ${heading(metric)} first`, -up, scored(metric)]);
  }
  return [...all, ["as tested", 0, () => null]];
}

function sortedBy(indices, key, direction) {
  return [...indices].sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    if (left === null || right === null) return (left === null) - (right === null) || a - b;
    return (left - right) * direction || a - b;
  });
}

/** A button of the strip, whose picture is read when it comes into sight. */
function thumbnail(picture, index, strip, onclick) {
  const { width, height } = picture.panels[picture.panels.length - 1];
  const image = el("img", { alt: "", decoding: "async", draggable: false });
  image.style.aspectRatio = `${width} / ${height}`;
  const note = el("span", { class: "gain" });
  const element = el("button", { type: "button", class: "thumb", title: `${picture.set}: ${picture.image}`, onclick }, image, el("span", { class: "label" }, el("span", { class: "name" }, picture.image), note));
  new IntersectionObserver(
    (entries, watch) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      image.src = data(`picture-${index}`).panels.at(-1).src;
    },
    { root: null, rootMargin: "200px" },
  ).observe(element);
  return { element, describe };

  function describe(place, method) {
    const value = place === undefined ? null : gain(place.set, place.scores, method);
    note.textContent = value === null ? "" : signed(value, place.set.metrics[0].places);
    note.classList.toggle("worse", value !== null && value < 0);
  }
}

function dialogHead(dialog, title) {
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  return el("div", { class: "tools" }, el("h3", {}, title), close);
}

/** Fills the grid with the part of each panel; returns a note on where its pixels are from. */
async function fillGrid(grid, view) {
  const [picture, sources, crop] = [report.pictures[view.index], view.sources, view.crop];
  const stillWanted = () => grid.asked === crop && view.index === report.pictures.indexOf(picture);
  grid.asked = crop;
  const isOwn = picture.crop !== null && crop.every((value, index) => value === picture.crop[index]);
  const parts = await Promise.all(picture.panels.map((panel, index) => part(panel, sources.panels[index], isOwn ? sources.crops[panel.label] : undefined)));
  if (!stillWanted()) return "";
  const truth = parts[picture.panels.findIndex((panel) => panel.label === "HR")];
  const scores = picture.panels.map((panel, index) => partScores(panel, parts[index], truth));
  const best = fixed(Math.max(...scores.filter((each) => each !== null).map((each) => each.psnr)), 2);
  grid.replaceChildren(
    ...picture.panels.map((panel, index) => {
      const own = scores[index];
      return el(
        "figure",
        {},
        parts[index]?.canvas ?? el("div", { class: "missing" }, "cannot be shown"),
        el(
          "figcaption",
          {},
          el("span", { class: "label" }, methodName(panel.label)),
          own === null ? null : el("span", { class: fixed(own.psnr, 2) === best ? "best" : "" }, own.text),
          Object.keys(panel.scores).length ? el("span", { class: "muted" }, `image ${wholeScores(picture, panel)}`) : null,
        ),
      );
    }),
  );
  grid.style.setProperty("--ratio", `${crop[2]} / ${crop[3]}`);
  const place = `Part at ${crop[0]}, ${crop[1]} of ${crop[2]} × ${crop[3]} pixels`;
  if (scores.some((each) => each !== null)) return `${place}; PSNR / SSIM (Y) of the part.`;
  const small = parts.some((each, index) => each !== null && !each.own && sources.panels[index].full === null);
  return small ? `${place}, from the thumbnails; pages made with --full have all pixels.` : `${place}.`;

  /** The part of one panel on a canvas of its own pixels; null where its picture cannot be read. */
  async function part(panel, source, own) {
    try {
      if (own !== undefined) {
        const image = await load(own);
        return { own: true, ratio: 1, exact: isLossless(own), canvas: drawn(image, [0, 0, image.naturalWidth, image.naturalHeight], panel) };
      }
      const { image, address } = await panelImage(source);
      const hr = picture.panels.find((each) => each.label === "HR") ?? panel;
      const ratio = image.naturalWidth / hr.width;
      const exact = isLossless(address) && ratio === 1;
      return { own: false, ratio, exact, canvas: drawn(image, crop.map((value) => value * ratio), panel) };
    } catch {
      return null;
    }
  }

  function drawn(image, [left, top, width, height], panel) {
    const canvas = el("canvas", { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)), role: "img", "aria-label": `${panel.label}, enlarged` });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(image, left, top, width, height, 0, 0, canvas.width, canvas.height);
    return canvas;
  }
}

/** PSNR and SSIM (Y) of a part, where both it and HR's are exact. */
function partScores(panel, own, truth) {
  if (["LR", "HR"].includes(panel.label) || !own?.exact || !truth?.exact) return null;
  if (own.canvas.width !== truth.canvas.width || own.canvas.height !== truth.canvas.height) return null;
  const [a, b] = [luma(own.canvas), luma(truth.canvas)];
  if (a === null || b === null) return null;
  const [ratio, similarity] = [psnr(a, b), ssim(a, b)];
  return { psnr: ratio, text: [Number.isFinite(ratio) ? fixed(ratio, 2) : "∞", similarity === null ? null : fixed(similarity, 4)].filter((text) => text !== null).join(" / ") };
}

/** The scores of the whole image, in the order and with the digits of its set. */
function wholeScores(picture, panel) {
  const set = report.sets.find((each) => each.name === picture.set) ?? { metrics: [] };
  return Object.entries(panel.scores)
    .map(([name, value]) => fixed(value, set.metrics.find((metric) => metric.name === name)?.places ?? 2))
    .join(" / ");
}

function fillAnalyses(section) {
  const figures = report.analyses.map((analysis) => {
    const dialog = byId("enlarged");
    const image = analysis.src === null ? null : el("img", { alt: analysis.title, decoding: "async", loading: "lazy", src: analysis.src });
    const enlarge = () => {
      dialog.grid = false;
      dialog.replaceChildren(dialogHead(dialog, analysis.title), el("img", { alt: analysis.title, src: analysis.src, class: "whole" }));
      dialog.showModal();
    };
    return el(
      "figure",
      { class: "analysis" },
      image === null ? null : el("button", { type: "button", class: "picture", onclick: enlarge, "aria-label": `enlarge ${analysis.title}` }, image),
      el("figcaption", {}, el("h3", {}, breakable(analysis.title)), el("span", { class: "kind" }, analysis.kind), analysis.text ? el("pre", {}, analysis.text) : null),
    );
  });
  section.append(el("div", { class: "analyses" }, figures));
}
