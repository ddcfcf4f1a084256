/** The proof of model encryption in numbers: xT · TᵀE = xE, one entry after the other. */
import { randomKey } from "../../mixerkey/parties/page/cipher.js";
import { LiveFigure, factor, fill, make, matrix, signed } from "./live.js";

// The chapter's block, matrix and key, Key.from_seed(7, patch_size=2, channels=1).
const X = [[1, 3, -5, 7]];
const E = [[2, 1], [0, -1], [1, 3], [-1, 2]];
const KEY = { v: [2, 0, 1, 3], r: [1, 0, 1, 0] };

/** T(v(k), k) = ±1, minus where r(k) is 1; all other entries 0. */
function signedPermutation({ v, r }) {
  const T = v.map(() => v.map(() => 0));
  v.forEach((from, k) => { T[from][k] = r[k] ? -1 : 1; });
  return T;
}

const transpose = (A) => A[0].map((_, j) => A.map((row) => row[j]));
const multiply = (A, B) => A.map((row) => transpose(B).map((column) => row.reduce((sum, a, k) => sum + a * column[k], 0)));

class ProofFigure extends LiveFigure {
  label = "step of the proof";
  key = KEY;

  constructor() {
    super();
    this.#prepare();
    this.steps = this.pages.length;
  }

  /** The products that make the proof, and a page for each entry of each. */
  #prepare() {
    const T = signedPermutation(this.key), back = transpose(T), hidden = multiply(X, T), locked = multiply(back, E);
    const products = [
      ["The plain embedding: z = xE", [X, "x"], [E, "E"], "z", ""],
      ["The cipher on the block: x′ = xT", [X, "x"], [T, "T"], "x′",
        "A column of T has one entry that is not 0, so it picks one pixel and gives it a sign."],
      ["The same on the matrix: E′ = TᵀE", [back, "Tᵀ"], [E, "E"], "E′",
        "A row of Tᵀ picks one row of E and gives it the same sign."],
      ["Between x and E stands TTᵀ = I", [T, "T"], [back, "Tᵀ"], "TTᵀ",
        "Two different rows of T are never both nonzero in a column; a row with itself gives (±1)² = 1."],
      ["Both encrypted: x′E′ = x(TTᵀ)E = xE", [hidden, "x′"], [locked, "E′"], "x′E′", "The same number as in z."],
      ["The transpose instead: x′(TE)", [hidden, "x′"], [multiply(T, E), "TE"], "x′(TE)",
        "E encrypted with T in place of Tᵀ: compare with z."],
    ];
    this.pages = products.flatMap(([title, left, right, name, why]) => {
      const result = multiply(left[0], right[0]), columns = result[0].length;
      return result.flatMap((row, i) => row.map((_, j) => ({ title, left, right, result, name, why, i, j, columns })));
    });
  }

  build() {
    this.heading = make("p", { className: "live-title" });
    this.product = make("div", { className: "live-row live-multiply" });
    const another = make("button", { type: "button", textContent: "Another key" });
    another.onclick = () => { this.key = randomKey(2, 1); this.#prepare(); this.go(this.step); };
    return [this.heading, this.product, another];
  }

  show(step) {
    const { title, left, right, result, name, why, i, j, columns } = this.pages[step];
    const tables = [left, right, [result, name]].map(([values, label], part) => {
      const { table, cells } = matrix(values.length, values[0].length, label);
      const known = (row, column) => part < 2 || row * columns + column <= i * columns + j;
      fill(cells, values.map((row, a) => row.map((value, b) => (known(a, b) ? value : null))));
      return { table, cells };
    });
    tables[0].cells[i].forEach((cell) => { cell.className = "live-mark"; });
    tables[1].cells.forEach((row) => { row[j].className = "live-mark"; });
    tables[2].cells[i][j].className = "live-result";
    const sign = (text) => make("span", { className: "live-sign", textContent: text });
    this.product.replaceChildren(tables[0].table, sign("×"), tables[1].table, sign("="), tables[2].table);
    this.heading.textContent = title;
    const terms = left[0][i].map((a, k) => `${k ? factor(a) : signed(a)}·${factor(right[0][k][j])}`).join(" + ");
    return `Row ${i}, column ${j}: ${terms} = ${signed(result[i][j])}. ${why}`;
  }
}
customElements.define("mixer-proof", ProofFigure);
