/** Fig. 5 with points that name their key. The counts are those of the package's receipt. */
import { readJson } from "../lab/files.js";
import { boxPlot } from "./boxplot.js";
import { LiveFigure, makeSvg } from "./live.js";

const RANGE = 0.2; // the axis goes from 0 to this accuracy
const MARGIN = 0.07; // left and right of the axis, as shares of the width
const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)} %`;
const across = (share) => `${(100 * (MARGIN + ((1 - 2 * MARGIN) * share) / RANGE)).toFixed(3)}%`;

class KeysFigure extends LiveFigure {
  label = "wrong key, from the least accurate to the most";

  async connectedCallback() {
    if (this.keys) return;
    const receipt = await readJson("paper.json");
    const images = receipt.experiments["table 1"].result.images, [first] = receipt.wrong_key_seeds;
    this.images = images;
    this.keys = receipt.experiments["wrong keys"].result.map((right, i) => ({ seed: first + i, right, share: right / images }));
    this.keys.sort((a, b) => a.right - b.right || a.seed - b.seed);
    this.steps = this.keys.length;
    super.connectedCallback();
  }

  build() {
    const svg = makeSvg("svg", { class: "live-keys", width: "100%", height: 190, role: "img" });
    svg.setAttribute("aria-label", "Box plot of the accuracy under wrong keys, with a point for each key.");
    const line = (x1, x2, y1, y2, name) => makeSvg("line", { x1: across(x1), x2: across(x2), y1, y2, class: name });
    const { low, Q1, median, Q3, high } = boxPlot(this.keys.map(({ share }) => share));
    const box = makeSvg("rect", { x: across(Q1), y: 24, height: 40, width: `${(100 * (1 - 2 * MARGIN) * (Q3 - Q1)) / RANGE}%`, class: "live-box" });
    svg.append(line(0.1, 0.1, 8, 150, "live-guess"), line(low, Q1, 44, 44, "live-axis"), line(Q3, high, 44, 44, "live-axis"),
      line(low, low, 34, 54, "live-axis"), line(high, high, 34, 54, "live-axis"), box, line(median, median, 24, 64, "live-median"),
      line(0, RANGE, 150, 150, "live-axis"));
    for (const tick of [0, 0.05, 0.1, 0.15, 0.2]) {
      const text = makeSvg("text", { x: across(tick), y: 172, "text-anchor": "middle" });
      text.textContent = percent(tick, 0);
      svg.append(line(tick, tick, 150, 155, "live-axis"), text);
    }
    // Neighbours in accuracy stand at different heights, so that a pointer can tell them apart.
    this.points = this.keys.map(({ seed, share }, i) => {
      const point = makeSvg("circle", { cx: across(share), cy: 84 + ((i * 5) % 8) * 7.5, r: 4, "data-seed": seed });
      point.onpointerenter = point.onclick = () => this.go(i);
      return point;
    });
    svg.append(...this.points);
    return [svg];
  }

  show(step) {
    const { seed, right, share } = this.keys[step];
    this.points.forEach((point, i) => point.classList.toggle("live-chosen", i === step));
    this.points.forEach((point, i) => point.setAttribute("r", i === step ? 7 : 4));
    return `Key.from_seed(${seed}, 4, 3): ${right.toLocaleString("en")} of ${this.images.toLocaleString("en")} images right, ` +
      `${percent(share)}. Place ${step + 1} of ${this.steps}, from the least accurate.`;
  }
}
customElements.define("mixer-keys", KeysFigure);
