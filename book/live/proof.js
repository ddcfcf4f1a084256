/** The proof of model encryption in five steps: pixels and the rows of E that they meet. */
import { randomKey } from "../../mixerkey/parties/page/cipher.js";
import { LiveFigure, factor, make, signed } from "./live.js";
import { KEY, TELLING, picture, steps, sums, tellingKey, terms } from "./proof-picture.js";

const SECONDS = 0.7; // that a move takes

class ProofFigure extends LiveFigure {
  label = "step of the proof";
  telling = TELLING;
  asked = -1; // the column whose sum is shown term by term
  key = KEY;
  scenes = steps(KEY);
  steps = 5;

  build() {
    this.querySelector("svg")?.remove(); // which stood there for pages without scripts
    this.drawing = make("div");
    this.askers = [0, 1].map((j) => this.another(`Add up column ${j + 1}`, () => { this.asked = this.asked === j ? -1 : j; }));
    const another = this.another("Another key", () => {
      const { v } = this.key;
      do this.key = tellingKey(() => randomKey(2, 1)); while (String(this.key.v) === String(v)); // it moves pixels elsewhere
      this.scenes = steps(this.key);
    }, 1);
    return [this.drawing, make("div", { className: "live-row" }, ...this.askers, another)];
  }

  show(step) {
    const scene = this.scenes[step];
    this.askers.forEach((button, j) => button.setAttribute("aria-pressed", j === this.asked));
    this.#move(this.shown ?? scene, scene);
    this.shown = scene;
    if (this.asked < 0) return scene.words;
    const sum = terms(scene, this.asked).map(([a, b], k) => `${k ? factor(a) : signed(a)}·${factor(b)}`).join(" + ");
    return `${scene.words} Column ${this.asked + 1}: ${sum} = ${signed(sums(scene)[this.asked])}.`;
  }

  /** Let everything glide from its place in one scene to that in another; signs turn on the way. */
  #move(from, to) {
    cancelAnimationFrame(this.frame);
    const draw = (moves) => { this.drawing.innerHTML = picture(to, { asked: this.asked, ...moves }); };
    if (from === to || matchMedia("(prefers-reduced-motion: reduce)").matches) { draw(); return; }
    const between = (a, b, share) => a.map((one, k) => ({
      place: one.place + share * (b[k].place - one.place), sign: share < 0.5 ? one.sign : b[k].sign,
    }));
    const start = performance.now();
    const glide = (now) => {
      const part = Math.min(Math.max((now - start) / (1000 * SECONDS), 0), 1), share = part * part * (3 - 2 * part);
      if (part === 1) { draw(); return; }
      draw({ pixels: between(from.pixels, to.pixels, share), rows: between(from.rows, to.rows, share) });
      this.frame = requestAnimationFrame(glide);
    };
    glide(start);
  }
}
customElements.define("mixer-proof", ProofFigure);
