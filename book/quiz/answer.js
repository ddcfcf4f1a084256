/** Answers to exercises: typed, and judged in the page. Nothing is sent; what is kept is that the exercise is done. */

const NUMBER = /(-?(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?)(\s*mi(?:llion|o\b))?/gi;

/** The ways to read a text: numbers as they stand, with gaps between thousands, with a decimal comma; or true and false. */
function readings(text, right) {
  const plain = text.normalize("NFKC").replace(/[−–]/g, "-");
  if (typeof right[0] === "boolean") {
    const bare = plain.replace(/[\s,;]/g, "");
    const words = /^([tf]+|[01]+)$/i.test(bare) ? [...bare] : plain.match(/\b(true|false|t|f|yes|no)\b/gi) ?? plain.match(/\b[01]\b/g);
    return [(words ?? []).map((word) => /^[ty1]/i.test(word))];
  }
  const thousands = plain.replace(/(?<=\d)[,'’\s](?=\d{3}(?!\d))/g, "");
  const comma = plain.replace(/(?<=\d)[.'’\s](?=\d{3}(?!\d))/g, "").replace(/(?<=\d),(?=\d)/g, ".");
  return [plain, thousands, comma].map((form) =>
    [...form.matchAll(NUMBER)].map(([, digits, million]) => Number(digits) * (million ? 1e6 : 1)));
}

const same = (given, wanted, within) =>
  given.every((value, k) => (typeof value === "boolean" ? value === wanted[k] : Math.abs(value - wanted[k]) <= within));

/** What the mistakes of an answer are, one for all its values or several beside others. */
function explained(given, { right, mistakes, within }) {
  const whole = mistakes.find(([wrong]) => same(given, wrong, within));
  if (whole) return [whole[1]];
  if (right.length === 1 && [2, 3, 4, 5, 6].some((digits) => Number(right[0].toPrecision(digits)) === given[0])) {
    return ["this is rounded; give it with all its digits"];
  }
  return mistakes.filter(([wrong]) =>
    same(given, given.map((value, k) => (wrong[k] === right[k] ? value : wrong[k])), within)).map(([, words]) => words);
}

/** Whether an answer is right, and what is to be said of it. */
function judge(text, { right, praise, mistakes, within = 0 }) {
  const count = right.length, all = readings(text, right), fitting = all.filter((given) => given.length === count);
  if (!fitting.length) {
    const [asked, form] = typeof right[0] === "boolean" ? [`${count} times True or False is`, "one for each question, in turn"]
      : count > 1 ? [`${count} numbers are`, "write them with commas between"] : ["one number is", "write it alone, as 1234.5"];
    return [false, `Not yet: ${asked} asked for, and ${all[0].length || "none"} found; ${form}.`];
  }
  if (fitting.some((given) => same(given, right, within))) return [true, `Right: ${praise}`];
  const why = fitting.map((given) => explained(given, { right, mistakes, within })).find((said) => said.length)?.join("; ");
  return [false, `Not right${why ? `: ${why}.` : ". Try again, or unfold the solution."}`];
}

/** What to type where one number is not enough. */
function format({ right }) {
  if (right.length === 1) return "";
  return typeof right[0] === "boolean" ? ` (${right.length} times True or False)` : ` (${right.length} numbers, with commas)`;
}

/** Words with the indices of their symbols lowered: v_k, p_b. */
const typeset = (words) => words.split(/(?<=\b[a-zA-Z])_(\w)\b/).map((part, i) =>
  (i % 2 ? Object.assign(document.createElement("sub"), { textContent: part }) : part));

class Answer extends HTMLElement {
  connectedCallback() {
    const form = document.createElement("form");
    const fields = JSON.parse(this.dataset.fields).map((field) => {
      const label = document.createElement("label"), input = document.createElement("input");
      const says = document.createElement("output"); // is read aloud
      Object.assign(input, { type: "text", autocomplete: "off", spellcheck: false });
      input.addEventListener("input", () => says.replaceChildren()); // a verdict belongs to what it was given for
      const ask = label.appendChild(document.createElement("span"));
      ask.append(...typeset(field.ask + format(field)));
      label.append(input);
      form.append(label, says);
      return { ...field, input, says };
    });
    form.append(Object.assign(document.createElement("button"), { textContent: "Check" }));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const verdicts = fields.map(({ input, says, ...field }) => {
        const [right, words] = judge(input.value, field);
        says.replaceChildren(...typeset(words));
        says.dataset.verdict = right ? "right" : "wrong";
        return right;
      });
      const done = this.closest(".exercise").querySelector(".exercise-done input:not(:checked)");
      if (verdicts.every(Boolean)) done?.click();
    });
    this.append(form);
  }
}
customElements.define("mixer-answer", Answer);
