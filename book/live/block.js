/** One block through the cipher, Eq. (4) to (7), and back; computed by the same code as the lab. */
import { decrypt, encrypt, randomKey } from "../../mixerkey/parties/page/cipher.js";
import { LiveFigure, make, makeSvg, signed } from "./live.js";

const SHAPE = [3, 2, 2]; // C, M, M
const BLOCK = [230, 60, 120, 10, 150, 70, 40, 20, 50, 180, 90, 240]; // red, green, blue
// Key.from_seed(7, patch_size=2, channels=3), the chapter's.
const KEY = { patchSize: 2, channels: 3, v: [9, 1, 2, 10, 3, 5, 0, 6, 4, 8, 11, 7], r: [1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0] };
const HEADS = ["k", "x(k)", "", "v(k)", "Eq. (4)", "r(k)", "Eq. (5)", "Eq. (7)"];
const FROM_STEP = [0, 1, 0, 2, 4]; // when v, Eq. (4), r, Eq. (5) and Eq. (7) appear

class BlockFigure extends LiveFigure {
  label = "step of the cipher";
  steps = 6;
  key = KEY;
  block = Uint8Array.from(BLOCK);

  build() {
    this.pictures = ["block", "sent", "decrypted"].map((name) => {
      const canvas = make("canvas", { width: 2, height: 2 });
      canvas.setAttribute("aria-hidden", "true"); // the table has its values
      return make("figure", {}, canvas, make("figcaption", { textContent: name }));
    });
    this.lines = makeSvg("svg", { viewBox: "0 0 10 12", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.heads = HEADS.map((text) => make(text ? "th" : "td", text ? { scope: "col", textContent: text } : {}));
    this.rows = Array.from(this.block, (_, k) => this.#row(k));
    this.rows[0][1].after(make("td", { rowSpan: 12, className: "live-lines" }, this.lines));
    const table = make("table", { className: "live-block" },
      make("thead", {}, make("tr", {}, ...this.heads)),
      make("tbody", {}, ...this.rows.map(([first]) => first.parentNode)));
    const another = this.another("Another key", () => { this.key = randomKey(2, 3); }, 1);
    const pictures = make("div", { className: "live-pictures" }, ...this.pictures, another);
    return [make("div", { className: "live-row" }, pictures, table)];
  }

  /** Row k of the table: its name, the pixel to edit, the key there, and the results. */
  #row(k) {
    const name = make("th", { scope: "row", textContent: "RGB"[Math.floor(k / 4)] + k });
    const input = make("input", { type: "number", min: 0, max: 255, value: this.block[k] });
    input.setAttribute("aria-label", `pixel ${k}`);
    input.onchange = () => {
      this.block[k] = Math.min(Math.max(Math.round(input.valueAsNumber) || 0, 0), 255);
      input.value = this.block[k];
      this.go(this.step);
    };
    const cells = [name, make("td", {}, input), ...FROM_STEP.map(() => make("td"))];
    make("tr", {}, ...cells);
    return cells;
  }

  show(step) {
    const { v, r } = this.key;
    const shuffled = encrypt(this.block, SHAPE, { ...this.key, r: r.map(() => 0) });
    const sent = encrypt(this.block, SHAPE, this.key), back = decrypt(sent, SHAPE, this.key);
    const normalised = Array.from(sent, (p) => signed(((2 * p - 255) / 255).toFixed(2)));
    this.rows.forEach(([, , ...cells], k) => {
      [v[k], shuffled[k], r[k], sent[k], normalised[k]].forEach((value, column) => {
        cells[column].textContent = step >= FROM_STEP[column] ? value : "";
        cells[column].className = step >= 2 && column >= 2 && r[k] ? "live-flipped" : "";
      });
    });
    this.lines.replaceChildren(...v.map((from, k) => makeSvg("line", { x1: 0, y1: from + 0.5, x2: 10, y2: k + 0.5 })));
    this.lines.style.visibility = step >= 1 ? "visible" : "hidden";
    [this.block, sent, back].forEach((pixels, i) => paint(this.pictures[i], step >= [0, 3, 5][i] && pixels));
    const k = r.indexOf(1); // an example that is flipped
    return [
      `The block has ${this.block.length} values: four red, four green, four blue. Change one of them if you like.`,
      `Eq. (4): place k receives pixel v(k). Place ${k} receives x(${v[k]}) = ${shuffled[k]}.`,
      `Eq. (5): where r(k) is 1, XOR 255. At place ${k}, ${shuffled[k]} becomes 255 − ${shuffled[k]} = ${sent[k]}.`,
      "Integration: the twelve values are a block again, and this is what is sent.",
      `Eq. (7): (2p − 255)/255. Place ${k} holds ${normalised[k]}; not flipped, it would be the same number with the other sign.`,
      `Decryption flips with the same r and sends each place k back to v(k): ${back.join(", ")}.`,
    ][step];
  }
}

/** Draw a block of 2 × 2 pixels, or nothing yet, into a figure's canvas. */
function paint(figure, pixels) {
  const data = new ImageData(2, 2);
  for (let i = 0; pixels && i < 4; i++) data.data.set([pixels[i], pixels[4 + i], pixels[8 + i], 255], 4 * i);
  figure.querySelector("canvas").getContext("2d").putImageData(data, 0, 0);
}
customElements.define("mixer-block", BlockFigure);
