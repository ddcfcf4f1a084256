/* Whatever scrolls sideways within the page can be reached and moved with the keyboard. */
const SCROLLERS = ".katex-display, div.math, div.cell_output, .pst-scrollable-table-container, pre";
const cut = (box) => box.scrollWidth > box.clientWidth + 1;

/** Give a scroller a place in the tab order while, and only while, it has something to scroll. */
function reach(box) {
  if (box.matches(".pst-scrollable-table-container")) deal(box);
  box.classList.remove("narrow");
  if (box.matches(".katex-display")) box.classList.toggle("narrow", cut(box)); // in smaller letters, on a phone
  if (cut(box)) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

/* What CSS lays out in another way is still a table to whoever listens. */
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", th: "columnheader", td: "cell" };

/** How many lines the words of a cell take. */
function lines(cell) {
  const words = document.createRange();
  words.selectNodeContents(cell);
  return words.getBoundingClientRect().height / parseFloat(getComputedStyle(cell).lineHeight);
}

/** Whether a table of many columns fits a narrow page only with words above each other: more than two lines, or four of a row's name. */
function squeezed(table) {
  const rows = [...table.querySelectorAll("tbody tr")];
  return rows[0]?.cells.length > 3 && rows.some(({ cells }) => [...cells].some((cell, k) => lines(cell) > (k ? 2.5 : 4.5)));
}

/** Make a card of each row of a table that is too wide for a phone: its first words above, the others under their titles. */
function deal(box) {
  const [table] = box.children, titles = [...table.querySelectorAll("thead th")].map((title) => title.textContent.trim());
  table.classList.remove("cards");
  if (innerWidth > 640 || !titles.length || !(box.scrollWidth > box.clientWidth || squeezed(table))) return;
  const cells = [...table.querySelectorAll("tbody > tr > *")], texts = cells.map((cell) => cell.textContent.trim());
  cells.forEach((cell) => (cell.dataset.title = titles[cell.cellIndex]));
  for (const [tag, role] of Object.entries(ROLES)) {
    for (const part of box.querySelectorAll(tag)) part.setAttribute("role", part.matches("tbody th") ? "rowheader" : role);
  }
  table.classList.toggle("headed", cells.some((cell, k) => cell.cellIndex === 0 && !/^[+−-]?\d|^$/.test(texts[k])));
  table.classList.toggle("worded", cells.some((cell, k) => cell.cellIndex > 0 && texts[k].length > 30));
  table.classList.add("cards");
}

addEventListener("load", () => {
  const watch = new ResizeObserver((parts) => parts.forEach(({ target }) => reach(target.closest(SCROLLERS))));
  for (const box of document.querySelectorAll(SCROLLERS)) {
    reach(box);
    for (const part of [box, ...box.children]) watch.observe(part); // a window, a fold that opens, a font that arrives
  }
});

/* Paper is light and has no buttons: change theme and unfold everything before printing, and back after it. */
let closed = [], theme;
addEventListener("beforeprint", () => {
  ({ theme } = document.documentElement.dataset);
  document.documentElement.dataset.theme = "light";
  closed = [...document.querySelectorAll("main details:not([open])")];
  closed.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = theme;
  closed.forEach((details) => (details.open = false));
});

/* A figure at its full size, above the page: it was drawn for a desk. Without scripts its link leads to the file. */
addEventListener("click", (event) => {
  const link = event.target.closest("a.full-size");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const { alt, className } = link.firstElementChild, image = Object.assign(new Image(), { src: link.href, alt, className });
  const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
  const above = Object.assign(document.createElement("dialog"), { className: "above", onclick: () => above.close(), onclose: () => above.remove() });
  above.append(close, image);
  document.body.append(above);
  above.showModal();
});

/* A link to a cell shows its code. */
function unfold() {
  document.querySelectorAll("div.cell:target details").forEach((details) => (details.open = true));
}
addEventListener("load", unfold);
addEventListener("hashchange", unfold);

/* The reader's place and the exercises done: kept in this browser, and nowhere else. The welcome page leads back, and forgets. */
const MEMORY = "mixerkey";

function recall() {
  try {
    return JSON.parse(localStorage[MEMORY]);
  } catch {
    return {}; // nothing is kept, or this browser keeps nothing
  }
}

function remember(more) {
  try {
    localStorage[MEMORY] = JSON.stringify({ ...recall(), ...more });
  } catch { /* this browser keeps nothing */ }
}

const words = (heading) => heading.firstChild.textContent.trim() || heading.textContent.replace(/#$/, "").trim();

addEventListener("DOMContentLoaded", () => {
  const { place, done = [] } = recall(), resume = document.querySelector("#resume");
  for (const exercise of document.querySelectorAll(".exercise[id]")) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: done.includes(exercise.id) });
    const label = document.createElement("label");
    label.className = "exercise-done";
    label.append(box, " done");
    exercise.querySelector(".admonition-title").append(label);
    box.addEventListener("change", () => {
      const others = (recall().done ?? []).filter((id) => id !== exercise.id);
      remember({ done: box.checked ? [...others, exercise.id] : others });
    });
  }
  if (!resume) return;
  if (place) {
    const link = Object.assign(document.createElement("a"), { href: place.address, textContent: place.name });
    resume.append("You were reading ", link, ". ");
  }
  if (done.length) resume.append(`${done.length} exercise${done.length > 1 ? "s" : ""} done. `);
  const forget = Object.assign(document.createElement("button"), { type: "button", textContent: "Forget this" });
  forget.addEventListener("click", () => {
    localStorage.removeItem(MEMORY);
    resume.hidden = true;
  });
  resume.append(forget);
  resume.hidden = !place && !done.length;
});

/* The section at the top of the window when the reader leaves a page, if there was any reading. */
addEventListener("pagehide", () => {
  const title = document.querySelector("article h1");
  if (!title || document.querySelector("#resume") || scrollY < 300) return;
  const section = [...document.querySelectorAll("article section[id]")].findLast((one) => one.getBoundingClientRect().top < 150);
  const heading = section?.querySelector("h2, h3, h4"), inside = heading && !section.querySelector("h1");
  remember({ place: {
    address: location.pathname.split("/").at(-1) + (section ? `#${section.id}` : ""),
    name: document.title.split(" \u2014 ")[0] + (inside ? `, “${words(heading)}”` : ""),
  } });
});
