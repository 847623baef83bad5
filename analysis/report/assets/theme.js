// Light and dark: as the system says, until the button says otherwise; paper is always light.

const themeWatchers = [];

/** The colour that a variable of the styles has now, as rgb() or rgba(), for what is drawn on a canvas. */
function styled(name, alpha) {
  const probe = el("i", { hidden: true, style: `color: var(${name})` });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return alpha === undefined ? colour : colour.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);
}

/** Draws canvases anew in the colours that now hold. */
function themeChanged() {
  themeWatchers.forEach((watch) => watch());
}

function themeButton() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const button = el("button", { type: "button", class: "theme", onclick: () => turn() });
  const name = () => (button.textContent = isDark() ? "Light" : "Dark");
  function turn() {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    themeChanged();
  }
  dark.addEventListener("change", () => {
    name();
    themeChanged();
  });
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    themeChanged();
  });
  addEventListener("afterprint", () => {
    if (before === undefined) delete root.dataset.theme;
    else root.dataset.theme = before;
    themeChanged();
  });
  name();
  return button;
}
