/** Answers to exercises: typed, and judged in the page. Nothing is sent; what is kept is that the exercise is done. */

/** The numbers of a text, or its words true and false where these are asked; if there are none, each 1 and 0 is one. */
function read(text, right) {
  if (typeof right[0] === "boolean") {
    return (text.match(/\b(true|false|t|f)\b/gi) ?? text.match(/\b[01]\b/g) ?? []).map((word) => /^[t1]/i.test(word));
  }
  const plain = text.replace(/[−–]/g, "-");
  const one = right.length === 1 ? plain.replace(/(?<=\d)[,'’\s](?=\d{3})/g, "") : plain; // thousands
  return (one.match(/-?\d+(\.\d+)?/g) ?? []).map(Number);
}

const same = (given, wanted, within) =>
  given.every((value, k) => (typeof value === "boolean" ? value === wanted[k] : Math.abs(value - wanted[k]) <= within));

/** Whether an answer is right, and what is to be said of it. */
function judge(text, { right, praise, mistakes, within = 0 }) {
  const given = read(text, right), count = right.length, kind = typeof right[0] === "boolean" ? "True or False" : "number";
  if (given.length !== count) {
    const asked = count > 1 ? `${count} ${kind === "number" ? "numbers are" : "times True or False is"}` : "one number is";
    return [false, `Not yet: ${asked} asked for, and ${given.length || "none"} found.`];
  }
  if (same(given, right, within)) return [true, `Right: ${praise}`];
  const whole = mistakes.find(([wrong]) => same(given, wrong, within));
  const made = whole ? [whole] : mistakes.filter(([wrong]) =>
    same(given, given.map((value, k) => (wrong[k] === right[k] ? value : wrong[k])), within)); // beside others
  const why = made.map(([, words]) => words).join("; ");
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
