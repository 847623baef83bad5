// Elements from data. Text becomes text nodes only: nothing in this program writes HTML.

/** An element with properties and children; `class`, `aria-*`, `data-*` and `role` become attributes. */
function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") element.style.cssText = value;
    else if (/^(aria-|data-|role$|for$|slot$|colspan$|scope$|list$)/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element with this id, of which the template has one. */
function byId(id) {
  return document.getElementById(id);
}

/** The data that the page holds under this id. */
function data(id) {
  return JSON.parse(byId(id).textContent);
}

/** A name that may be broken after the marks between its words. */
function breakable(name) {
  return name.split(/(?<=[_\-./])/).flatMap((part, index) => (index === 0 ? [part] : [el("wbr"), part]));
}

/** A select with one option for each [value, text]. */
function choice(label, entries, value, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) });
  for (const [each, text] of entries) select.append(el("option", { value: String(each) }, text));
  select.value = String(value);
  return el("label", { class: "choice" }, el("span", {}, label), select);
}

/** A box to tick. */
function tick(label, checked, onchange) {
  const box = el("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return el("label", { class: "tick" }, box, el("span", {}, label));
}

/** Text to copy, with a button that does it. */
function copyable(text) {
  const block = el("pre", { tabIndex: 0 }, el("code", {}, text));
  const button = el("button", { type: "button", class: "copy", onclick: () => copy() }, "Copy");
  const say = (word) => {
    button.textContent = word;
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  function copy() {
    const selected = () => {
      // without permission for the clipboard the text is at least selected
      getSelection().selectAllChildren(block);
      say(document.execCommand("copy") ? "Copied" : "Selected");
    };
    if (navigator.clipboard === undefined) selected();
    else navigator.clipboard.writeText(text).then(() => say("Copied"), selected);
  }
  return el("div", { class: "copyable" }, block, button);
}

/** Calls `act` once when the element is near the window. */
function whenNear(element, act) {
  const watch = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      act();
    },
    { rootMargin: "400px" },
  );
  watch.observe(element);
}
