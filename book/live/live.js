/** The frame of the live figures: a stage that shows one step at a time, controls for it, and each step in words. */

const SECONDS_A_STEP = 1.5;

/** A new element with these properties and children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A new SVG element with these attributes. */
export function makeSvg(name, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

export const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });

/** A number with a true minus sign. */
export const signed = (number) => String(number).replace("-", "−");

/** A factor within a sum of products: negative ones in brackets. */
export const factor = (number) => (number < 0 ? `(${signed(number)})` : String(number));

/** A table of rows × columns cells under a name; cells[row][column] are its <td>. */
export function matrix(rows, columns, name) {
  const cells = Array.from({ length: rows }, () => Array.from({ length: columns }, () => make("td")));
  const caption = make("caption", { textContent: name });
  const body = make("tbody", {}, ...cells.map((row) => make("tr", {}, ...row)));
  return { cells, caption, table: make("table", { className: "live-matrix" }, caption, body) };
}

/** Write values into such cells; null leaves one empty. */
export function fill(cells, values) {
  cells.forEach((row, i) => row.forEach((cell, j) => {
    const value = values[i]?.[j] ?? null;
    cell.textContent = value === null ? "" : signed(value);
    cell.className = "";
  }));
}

/**
 * A figure that a reader steps through. A subclass has
 * - steps: how many; label: what the slider sets;
 * - telling: the step that paper shows, by default the last;
 * - build(): makes the stage's elements, once;
 * - show(step): draws a step and returns it in words.
 * The caption is beside it in the page, and also stands where no script runs.
 */
export class LiveFigure extends HTMLElement {
  step = 0;

  connectedCallback() {
    if (this.says) return;
    this.slider = make("input", { type: "range", min: 0, max: this.steps - 1, value: 0 });
    this.slider.setAttribute("aria-label", this.label);
    this.slider.oninput = () => this.go(this.slider.valueAsNumber);
    this.count = make("span", { className: "live-count" });
    this.says = make("p", { className: "live-says" });
    this.says.setAttribute("role", "status");
    this.back = button("Back", () => this.go(this.step - 1));
    this.next = button("Next", () => this.go(this.step + 1));
    const controls = make("div", { className: "live-controls" }, this.back, this.next, this.slider, this.count);
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.playing = button("Play", () => (this.timer ? this.stop() : this.play()));
      controls.prepend(this.playing);
    }
    this.prepend(make("div", { className: "live-stage" }, ...this.build()), controls, this.says);
    this.addEventListener("keydown", (event) => this.#press(event));
    addEventListener("beforeprint", () => { this.seen = this.step; this.go(this.telling ?? this.steps - 1); });
    addEventListener("afterprint", () => this.go(this.seen));
    this.go(0);
  }

  disconnectedCallback() {
    this.stop();
  }

  /** Show a step; one before the first or after the last shows that one. */
  go(step, playing = false) {
    if (!playing) this.stop();
    this.step = Math.min(Math.max(step, 0), this.steps - 1);
    this.slider.value = this.step;
    this.count.textContent = `${this.step + 1} of ${this.steps}`;
    this.says.textContent = this.show(this.step);
    this.slider.setAttribute("aria-valuetext", this.count.textContent);
    this.back.setAttribute("aria-disabled", this.step === 0); // and yet it keeps the focus, for the arrow keys
    this.next.setAttribute("aria-disabled", this.step === this.steps - 1);
  }

  /** A button that changes something, and goes to the nearest of those steps that show it. */
  another(text, change, first = 0, last = this.steps - 1) {
    return button(text, () => {
      change();
      this.go(Math.min(Math.max(this.step, first), last));
    });
  }

  play() {
    if (this.step === this.steps - 1) this.go(0);
    this.playing.textContent = "Pause";
    this.timer = setInterval(() => {
      this.go(this.step + 1, true);
      if (this.step === this.steps - 1) this.stop();
    }, 1000 * SECONDS_A_STEP);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = undefined;
    if (this.playing) this.playing.textContent = "Play";
  }

  /** The arrow keys step from the buttons too; sliders and number fields have their own use for them. */
  #press(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.target.matches("input")) return;
    event.preventDefault();
    event.stopPropagation(); // slides have their own use for these keys
    this.go(this.step + move);
  }
}
