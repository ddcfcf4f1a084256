/** Self-checks: a button answers the option that was chosen. Nothing is stored or sent. */

/** Let each question of a quiz answer, and count those that were right at the first try. */
function start(quiz) {
  const questions = [...quiz.querySelectorAll("fieldset")];
  const first = new Map(); // question -> whether its first answer was right
  const score = liveRegion("quiz-score");
  quiz.append(score);
  for (const question of questions) {
    addButton(question, (right) => {
      if (!first.has(question)) first.set(question, right);
      if (first.size < questions.length) return;
      const count = [...first.values()].filter(Boolean).length;
      score.textContent = `Your score: ${count} of ${questions.length} right at the first try.`;
    });
  }
}

/** Replace the folded answers of a question by a button that shows the one to the chosen option. */
function addButton(question, answered) {
  const answers = [...question.querySelectorAll("li")];
  const key = question.querySelector("details");
  const shown = liveRegion("quiz-answer");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Check";
  button.addEventListener("click", () => {
    const chosen = question.querySelector("input:checked");
    const answer = chosen && answers[Number(chosen.value)];
    shown.dataset.verdict = answer ? answer.dataset.verdict : "none";
    if (!answer) {
      shown.textContent = "Choose an answer first.";
      return;
    }
    const why = [...answer.children].filter((part) => !part.matches(".quiz-option"));
    shown.replaceChildren(...why.map((part) => part.cloneNode(true)));
    answered(answer.dataset.verdict === "right");
  });
  const again = () => question.querySelector("input:checked") && button.click();
  addEventListener("load", () => setTimeout(again)); // for who comes back: browsers choose after it what was chosen
  question.addEventListener("change", () => shown.replaceChildren()); // an answer belongs to the choice that it was given for
  key.classList.add("quiz-key");
  key.before(button, shown);
}

/** An empty element whose new text is read aloud. */
function liveRegion(name) {
  const region = document.createElement("div");
  region.className = name;
  region.setAttribute("role", "status");
  return region;
}

class Quiz extends HTMLElement {
  connectedCallback() {
    start(this);
  }
}
customElements.define("mixer-quiz", Quiz);
