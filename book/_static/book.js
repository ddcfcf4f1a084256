/* Whatever scrolls sideways within the page can be reached and moved with the keyboard. */
const SCROLLERS = ".katex-display, div.math, div.cell_output, .pst-scrollable-table-container, pre";

/** Give each scroller a place in the tab order while, and only while, it has something to scroll. */
function reach() {
  for (const element of document.querySelectorAll(SCROLLERS)) {
    if (element.scrollWidth > element.clientWidth + 1) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}

addEventListener("load", reach);
addEventListener("resize", reach);

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

/* A link to a cell shows its code. */
function unfold() {
  document.querySelectorAll("div.cell:target details").forEach((details) => (details.open = true));
}
addEventListener("load", unfold);
addEventListener("hashchange", unfold);
