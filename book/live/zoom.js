/** A zoom through the digits network, plain and encrypted side by side: where do the two become equal? */
import { encrypt, randomKey } from "../../mixerkey/parties/page/cipher.js";
import { classify, encryptNetwork, readNetwork } from "../lab/convmixer.js";
import { read, readJson } from "../lab/files.js";
import { draw, drawMap } from "../lab/pictures.js";
import { LiveFigure, fill, make, matrix } from "./live.js";

const P = 2, SHAPE = [1, 8, 8], GRID = 4, MAPS = 8; // of the picture; how many of a stage's maps are shown
const SIDES = ["plain", "encrypted"];
// What is computed on the way, and in words; "number" is one entry of "embedding".
const STAGES = [
  ["picture", "The picture, and the same picture encrypted. The network cuts it into patches of 2 × 2 pixels; one of them is marked."],
  ["number", "One patch, one column of E: four products and their sum. On the right the pixels and the entries stand elsewhere, some negated; the sum is the same number. From here on the two are equal."],
  ["embedding", "The embedding: each patch has become a list of numbers, a map for each column of E. Eight of the maps are shown."],
  ["activated", "GELU and batch normalisation act on each number by itself. Equal numbers stay equal."],
  ["depthwise", "The first layer’s depthwise convolution mixes positions, each map by itself."],
  ["pointwise", "Its pointwise convolution mixes the maps, each position by itself."],
  ["last", "After the last layer."],
  ["pooled", "Pooling: the mean of each map over all positions."],
  ["logits", "The classifier: ten scores, the highest is the answer, with the key as without encryption."],
];

class ZoomFigure extends LiveFigure {
  label = "stage of the network";
  steps = STAGES.length;
  telling = 1;
  sample = 3;
  patch = 5;
  column = 0;
  key = {}; // none yet

  async connectedCallback() {
    if (this.samples) return;
    this.samples = []; // on their way
    this.samples = await readJson("samples.json");
    this.#draw();
    super.connectedCallback();
  }

  /** Fetch the network, 95 kB, once the reader steps on from the picture. */
  async fetchNetwork() {
    this.asked = true;
    this.network = readNetwork(await read("digits.safetensors"));
    this.#draw();
    this.go(this.step);
  }

  /** Draw another key, and run both networks; keep what they compute on the way. */
  #draw() {
    const before = String(Object.values(this.key));
    do this.key = randomKey(P, 1); while (String(Object.values(this.key)) === before);
    const pixels = Uint8Array.from(this.samples[this.sample].pixels);
    this.runs = SIDES.map((side) => {
      const hidden = side === "encrypted", picture = hidden ? encrypt(pixels, SHAPE, this.key) : pixels;
      if (!this.network) return { picture };
      const network = hidden ? encryptNetwork(this.network, this.key) : this.network, seen = { picture, E: network.embedding.weight };
      seen.logits = classify(network, picture, SHAPE, true, (name, values) => { seen[name] = values.slice(); });
      return seen;
    });
  }

  build() {
    this.panels = SIDES.map(() => make("div", { className: "zoom-panel" }));
    this.verdict = make("p", { className: "zoom-verdict" });
    const panels = SIDES.map((side, i) => make("figure", {}, make("figcaption", { textContent: side }), this.panels[i]));
    return [make("div", { className: "zoom-pair" }, ...panels), this.verdict, make("div", { className: "live-row" },
      this.another("Another patch", () => { this.patch = (this.patch + 1) % GRID ** 2; }, 0, 1),
      this.another("Another column", () => { this.column = (this.column + 1) % MAPS; }, 1, 1),
      this.another("Another digit", () => { this.sample = (this.sample + 1) % this.samples.length; this.#draw(); }),
      this.another("Another key", () => this.#draw(), 0, 1))];
  }

  show(step) {
    const [name, words] = STAGES[step];
    if (step && !this.network) {
      if (!this.asked) this.fetchNetwork().catch((error) => { this.says.textContent = `The network did not arrive: ${error.message}.`; });
      return "Fetching the network, 95 kB …";
    }
    this.panels.forEach((panel, i) => panel.replaceChildren(...this.#view(name, this.runs[i])));
    const [plain, hidden] = this.runs.map((seen) => (name === "number" ? [this.#sum(seen)] : seen[name]));
    const apart = Math.max(...Array.from(plain, (value, i) => Math.abs(value - hidden[i])));
    const equal = apart < 1e-4;
    this.verdict.textContent = `left and right are ${equal ? "equal" : "different"}`;
    this.verdict.dataset.equal = equal;
    return words;
  }

  /** The terms of one number: [pixel, entry of E], in the order of the patch. */
  #terms({ patches, E }) {
    const size = P * P, N = GRID ** 2;
    return Array.from({ length: size }, (_, k) => [patches[k * N + this.patch], E[this.column * size + k]]);
  }

  #sum(seen) {
    return this.#terms(seen).reduce((sum, [x, e]) => sum + x * e, 0);
  }

  #view(name, seen) {
    if (name === "picture") {
      const canvas = make("canvas"), mark = make("span", { className: "zoom-mark" });
      draw(canvas, seen.picture, SHAPE);
      mark.style.inset = `${25 * Math.floor(this.patch / GRID)}% auto auto ${25 * (this.patch % GRID)}%`;
      return [make("div", { className: "zoom-picture" }, canvas, mark)];
    }
    if (name === "number") {
      const terms = this.#terms(seen), { table, cells } = matrix(terms.length + 1, 3, "rounded to hundredths");
      const rounded = (value) => value.toFixed(2);
      fill(cells, [...terms.map(([x, e]) => [x, e, x * e].map(rounded)), [null, null, rounded(this.#sum(seen))]]);
      cells.at(-1)[2].className = "live-mark";
      const names = ["pixel", "entry", "product"].map((textContent) => make("th", { textContent, scope: "col" }));
      table.append(make("thead", {}, make("tr", {}, ...names)));
      return [table];
    }
    if (name === "logits") {
      const best = Math.max(...seen.logits), { table, cells } = matrix(seen.logits.length, 2, "class, score");
      fill(cells, seen.logits.map((value, i) => [i, value.toFixed(2)]));
      cells.forEach((row, i) => { if (seen.logits[i] === best) row[1].className = "live-mark"; });
      table.classList.add("zoom-logits");
      return [table];
    }
    const values = seen[name], side = name === "pooled" ? 8 : GRID, count = name === "pooled" ? 1 : MAPS;
    const top = Math.max(...values.map(Math.abs));
    return [make("div", { className: name === "pooled" ? "zoom-maps zoom-pooled" : "zoom-maps" }, ...Array.from({ length: count }, (_, i) => {
      const canvas = make("canvas");
      drawMap(canvas, values.slice(i * side * side, (i + 1) * side * side), side, top);
      return canvas;
    }))];
  }
}
customElements.define("mixer-zoom", ZoomFigure);
