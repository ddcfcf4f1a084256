/** Which network absorbs which change of a picture, where, and why: what encrypt_model takes, which a test compares. */
import { make } from "./live.js";

export const PARTS = {
  "ConvMixer": ["patch embedding", "kernels"],
  "ViT": ["patch embedding", "positions"],
  "MLP-Mixer": ["patch embedding", "token mixing"],
  "3 × 3 convolutions": ["kernels"],
};

// For each network and change: which of its parts change, or none if the network cannot absorb it; and why.
const EMBEDDED = {  // where a patch embedding comes first
  "key within blocks": [[0], "The first layer is a matrix, so E takes the inverse of T. No block has moved, and nothing else needs to know."],
  "matrix within blocks": [[0], "E takes the inverse of T, up to the rounding of floats. Nothing else changes."],
};
export const ABSORBED = {
  "ConvMixer": {
    ...EMBEDDED,
    "mirror image of the grid": [[1], "In the mirror image of a map, the mirrored kernels see what the old ones saw."],
    "any order of blocks": [[], "The kernels look at neighbours, and the neighbours are gone. If kernels may have any values, no others make up for it."],
    "key and any order": [[], "The embedding could take the key. The kernels cannot take the order."],
  },
  "ViT": {
    ...EMBEDDED,
    "mirror image of the grid": [[1], "Attention treats its tokens alike. Only the learned positions tell places apart: mirror them."],
    "any order of blocks": [[1], "Attention treats its tokens alike. Only the learned positions tell places apart: put them into the same order."],
    "key and any order": [[0, 1], "The embedding takes what happens within blocks, the positions take the order."],
  },
  "MLP-Mixer": {
    ...EMBEDDED,
    "mirror image of the grid": [[1], "Columns of the first token-mixing matrix and rows of the second are mirrored."],
    "any order of blocks": [[1], "Columns of the first token-mixing matrix and rows of the second follow the order."],
    "key and any order": [[0, 1], "The embedding takes what happens within blocks, token mixing takes the order."],
  },
  "3 × 3 convolutions": {
    "key within blocks": [[], "Kernels overlap the blocks. A pixel that was moved is seen through the wrong weights."],
    "matrix within blocks": [[], "Kernels overlap the blocks, so no matrix sees a block as a whole."],
    "mirror image of the grid": [[], "Blocks are mirrored, but not the pixels in them, and the kernels see pixels."],
    "any order of blocks": [[], "The kernels look at neighbours, and the neighbours are gone."],
    "key and any order": [[], "Neither the one nor the other."],
  },
};

class AbsorbFigure extends HTMLElement {
  connectedCallback() {
    if (this.says) return;
    const choices = (legend, names) => make("fieldset", { className: "live-choices" }, make("legend", { textContent: legend }),
      ...names.map((name, index) => {
        const input = make("input", { type: "radio", name: legend, value: name, checked: index === 0 });
        input.onchange = () => this.#show();
        return make("label", {}, input, name);
      }));
    this.parts = make("ol", { className: "live-parts" });
    this.says = make("p", { className: "live-says" });
    this.says.setAttribute("role", "status");
    this.prepend(
      choices("Network", Object.keys(ABSORBED)),
      choices("Change of the picture", Object.keys(ABSORBED.ViT)),
      make("p", { className: "live-title", textContent: "Parts of the network, marked if they change" }),
      this.parts,
      this.says,
    );
    this.#show();
  }

  #chosen(legend) {
    return this.querySelector(`input[name="${legend}"]:checked`).value;
  }

  #show() {
    const network = this.#chosen("Network"), [changed, why] = ABSORBED[network][this.#chosen("Change of the picture")];
    const className = (index) => (changed.includes(index) ? "live-result" : "");
    this.parts.replaceChildren(...PARTS[network].map((name, index) => make("li", { textContent: name, className: className(index) })));
    const where = changed.map((index) => PARTS[network][index]).join(" and ");
    this.says.textContent = changed.length ? `Absorbed by the ${where}. ${why}` : `Not absorbed. ${why}`;
  }
}
customElements.define("mixer-absorb", AbsorbFigure);
