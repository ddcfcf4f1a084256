/** The first screen: an encrypted photograph, and a button that finds its key in encrypted pictures alone. */
import { below, decrypt, encrypt, randomKey } from "../../mixerkey/parties/page/cipher.js";
import attack from "../lab/attack-worker.js?worker";
import { read, work } from "../lab/files.js";
import { crops, draw, load } from "../lab/pictures.js";
import { make } from "./live.js";

const M = 4, PUBLIC = 1000, CIPHERTEXTS = 100, LOCKS_A_SECOND = 16;
const PIECE = { left: 16, top: 12, side: 144 }; // of the first photograph, as tools/lab.py encrypts it for the page
const SHAPE = [3, PIECE.side, PIECE.side], SIZE = 3 * M * M;

class BreakFigure extends HTMLElement {
  connectedCallback() {
    if (this.says) return;
    this.button = make("button", { type: "button", textContent: "Break it", onclick: () => this.#run() });
    this.says = this.querySelector(".live-facts p:last-of-type"); // what happens is said where the button is announced
    this.says.classList.add("live-says");
    this.says.setAttribute("role", "status");
    this.canvas = make("canvas", { width: PIECE.side, height: PIECE.side });
    this.canvas.setAttribute("role", "img");
    this.says.after(this.button);
  }

  disconnectedCallback() {
    this.worker?.terminate();
    clearInterval(this.timer);
  }

  /** Draw a key, encrypt photographs with it, and give a worker the ciphertexts: nothing else, above all no key. */
  async #run() {
    this.button.disabled = true;
    this.says.textContent = "Fetching two photographs …";
    const state = this.querySelector(".live-facts span");
    try {
      const photos = await Promise.all(["lab/china.jpg", "lab/flower.jpg"].map(async (name) => load(await read(name))));
      const key = randomKey(M, 3), hidden = encrypt(piece(photos[0]), SHAPE, key);
      state.textContent = "This is a photograph, encrypted with";
      this.#show(hidden, "the photograph, encrypted with a key that was drawn just now");
      const ciphertexts = crops(photos, "left", CIPHERTEXTS, below).map((picture) => encrypt(picture, [3, 32, 32], key));
      const known = crops(photos, "right", PUBLIC, below); // other pictures, which anybody has
      this.says.textContent = `A new key is drawn. Comparing ${CIPHERTEXTS} encrypted pieces with other pictures …`;
      const start = performance.now(), found = await this.#attack({ known, ciphertexts, shape: [3, 32, 32], patchSize: M });
      state.textContent = "This photograph was encrypted with";
      this.#reveal(hidden, found, key, (performance.now() - start) / 1000);
    } catch (error) {
      this.#end(`It did not work: ${error.message}`);
    }
  }

  #attack(evidence) {
    return new Promise((resolve, reject) => {
      this.worker = work(attack);
      this.worker.onerror = () => reject(new Error("the browser could not start a worker."));
      this.worker.onmessage = ({ data: { key, finished, error } }) => {
        if (error) reject(new Error(error));
        if (finished) resolve(key);
      };
      this.worker.postMessage(evidence);
    }).finally(() => this.worker.terminate());
  }

  /** Put the pixels of every block back to their places, one position of the found key after the other. */
  #reveal(hidden, found, key, seconds) {
    const plain = decrypt(hidden, SHAPE, found), right = (name) => found[name].filter((x, k) => x === key[name][k]).length;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches, order = [...found.v.keys()];
    let locked = still ? SIZE : 0;
    const step = () => {
      const known = new Set(order.slice(0, locked).map((k) => found.v[k]));
      this.#show(plain.map((value, i) => (known.has(place(i)) ? value : hidden[i])), `the photograph, ${locked < SIZE ? "coming" : "brought"} back`);
      this.says.textContent = `The key is found, in ${seconds.toFixed(1)} seconds. Putting it in: ${locked} of ${SIZE} pixels of a block.`;
      if (locked++ < SIZE) return;
      const all = right("v") === SIZE && right("r") === SIZE;
      this.#end(`${all ? "Broken" : "Partly broken"} in ${seconds.toFixed(1)} seconds, without the key: ` +
        `${right("v")} of ${SIZE} positions and ${right("r")} of ${SIZE} signs are right.`);
    };
    this.timer = setInterval(step, 1000 / LOCKS_A_SECOND);
    step();
  }

  #end(words) {
    clearInterval(this.timer);
    this.says.textContent = words;
    this.button.disabled = false;
    this.button.textContent = "Again, with another key";
  }

  #show(pixels, name) {
    draw(this.canvas, pixels, SHAPE);
    this.canvas.setAttribute("aria-label", name);
    this.querySelector("img")?.replaceWith(this.canvas);
  }
}
customElements.define("mixer-break", BreakFigure);

/** Which of the SIZE pixels of its block pixel i of the picture is. */
function place(i) {
  const area = PIECE.side ** 2, row = Math.floor((i % area) / PIECE.side), column = i % PIECE.side;
  return (Math.floor(i / area) * M + (row % M)) * M + (column % M);
}

/** The part of a photograph that the page shows. */
function piece({ pixels, shape: [C, H, W] }) {
  const { left, top, side } = PIECE;
  return Uint8Array.from({ length: C * side * side }, (_, i) => {
    const channel = Math.floor(i / side ** 2), row = Math.floor((i % side ** 2) / side);
    return pixels[(channel * H + top + row) * W + left + (i % side)];
  });
}
