/** Patch embedding, Eq. (3), step by step: a patch is flattened and multiplied by a column of E. */
import { LiveFigure, factor, fill, make, matrix, signed } from "./live.js";

const P = 2;
// C × H × W = 3 × 4 × 4, with two equal patches.
const IMAGE = [
  [[1, 2, 5, 0], [4, 0, 3, 1], [5, 0, 9, 7], [3, 1, 8, 6]],
  [[0, 3, 2, 2], [1, 1, 0, 4], [2, 2, 7, 5], [0, 4, 6, 3]],
  [[6, 1, 0, 1], [2, 5, 1, 3], [0, 1, 2, 0], [1, 3, 4, 1]],
];
// p_b × d = 12 × 2. Column 0: is the left half brighter than the right? Column 1: is there more red than blue?
const E = Array.from({ length: 12 }, (_, k) => [k % 2 ? -1 : 1, 1 - Math.floor(k / (P * P))]);
const COLOURS = ["red", "green", "blue"];

/** Where entry k of patch i is: [channel, row, column], by k = c P² + u P + w. */
const place = (i, k) => [
  Math.floor(k / (P * P)), P * Math.floor(i / 2) + (Math.floor(k / P) % P), P * (i % 2) + (k % P),
];

/** Patch i as a row vector. */
const flatten = (i) => E.map((_, k) => {
  const [channel, row, column] = place(i, k);
  return IMAGE[channel][row][column];
});

const dot = (x, j) => x.reduce((sum, value, k) => sum + value * E[k][j], 0);

class PatchFigure extends LiveFigure {
  label = "step of the patch embedding";
  steps = 12; // for each of the 4 patches: flatten, column 0, column 1

  build() {
    this.planes = COLOURS.map((colour) => matrix(4, 4, colour));
    this.maps = [0, 1].map((j) => matrix(2, 2, `channel ${j}`));
    this.product = matrix(4, 12, "");
    const names = ["k", "x", "E", "x·E"];
    this.heads = names.map((name) => make("th", { scope: "row", textContent: name }));
    this.product.cells.forEach((row, i) => row[0].before(this.heads[i]));
    this.product.table.classList.add("live-product");
    const row = (...tables) => make("div", { className: "live-row" }, ...tables.map(({ table }) => table));
    return [row(...this.planes), row(this.product), row(...this.maps)];
  }

  show(step) {
    const i = Math.floor(step / 3), j = (step % 3) - 1, x = flatten(i);
    this.planes.forEach(({ cells }, c) => fill(cells, IMAGE[c]));
    const weights = j < 0 ? [] : E.map((row) => row[j]);
    fill(this.product.cells, [x.map((_, k) => k), x, weights, weights.map((weight, k) => x[k] * weight)]);
    x.forEach((_, k) => {
      const [channel, row, column] = place(i, k);
      this.planes[channel].cells[row][column].className = `live-${COLOURS[channel]}`;
      this.product.cells[1][k].className = `live-${COLOURS[channel]}`;
    });
    this.heads[2].textContent = j < 0 ? "E" : `E(:, ${j})`;
    this.product.caption.textContent = `patch ${i}, flattened` + (j < 0 ? "" : `, times column ${j} of E`);
    this.maps.forEach(({ cells }, map) => {
      const known = (patch) => (3 * patch + map + 1 <= step ? dot(flatten(patch), map) : null);
      fill(cells, [[known(0), known(1)], [known(2), known(3)]]);
    });
    if (j < 0) return `Patch ${i} is flattened: red first, row by row, then green, then blue: x = (${x.join(", ")}).`;
    this.maps[j].cells[Math.floor(i / 2)][i % 2].className = "live-mark";
    const sum = x.map((value, k) => [value, weights[k]]).filter(([, weight]) => weight);
    const terms = sum.map(([value, weight]) => `${value}·${factor(weight)}`).join(" + ");
    return `Patch ${i}, column ${j}: ${terms} = ${signed(dot(x, j))}.`;
  }
}
customElements.define("mixer-patch", PatchFigure);
