/* The sections that fit best, above the pages that Sphinx finds, which are folded: an equation by its number, a phrase, then all words. */
const SHOWN = 6, AROUND = 90, LINE = 30; // sections; letters of the text on each side, and of what stands together

const EQUATION = /^eq(?:uation)?s?\.?\s*\(?(\d+[a-z]?)\)?$/;

/** How well a section answers: 0 where it does not have every word. A whole word, or its plural, is more than a part of one. */
function fit({ page, title, text, equations }, query) {
  const wanted = query.match(EQUATION);
  if (wanted) return equations.includes(wanted[1]) ? 1 : 0;
  const head = title.toLowerCase(), body = text.toLowerCase();
  let score = head.includes(query) ? 100 : body.includes(query) ? 50 : 0;
  for (const word of query.split(/\s+/)) {
    if (!body.includes(word) && !head.includes(word)) return 0;
    score += (head.match(whole(word)) ? 20 : head.includes(word) ? 5 : 0) + Math.min((body.match(whole(word)) ?? []).length, 5);
  }
  if (together(body, query) >= 0) score += 20;
  return /claims|api/.test(page) ? score / 2 : score; // what explains comes before what lists
}

/** A word, or its plural, where it is not a part of another. */
function whole(word) {
  return new RegExp(`(?<![\\p{L}\\d_])${word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}s?(?![\\p{L}\\d_])`, "gu");
}

/** Where all words of a query stand within a line. */
function together(text, query) {
  const [first, ...others] = query.split(/\s+/);
  for (const { index } of text.matchAll(whole(first))) {
    const line = text.slice(Math.max(0, index - LINE), index + LINE);
    if (others.every((word) => line.match(whole(word)))) return index;
  }
  return -1;
}

/** A few whole words of the section around the first that was asked for. */
function excerpt({ text }, query) {
  const low = text.toLowerCase(), equation = query.match(EQUATION);
  const places = equation ? [low.indexOf(`(${equation[1]})`)]
    : [low.indexOf(query), together(low, query), ...query.split(/\s+/).flatMap((word) => [low.search(whole(word)), low.indexOf(word)])];
  const at = places.find((place) => place >= 0) ?? 0;
  const from = at > AROUND ? text.indexOf(" ", at - AROUND) + 1 : 0, end = text.lastIndexOf(" ", at + AROUND);
  const to = at + AROUND >= text.length || end <= at ? text.length : end;
  return (from ? "… " : "") + text.slice(from, to) + (to < text.length ? " …" : "");
}

/** Words with what stands low or high in their formulas. */
function typeset(words) {
  return words.split(/((?<=\b[A-Za-z])_\w(?:[-+]\d)?\b|\^\w)/).map((part, i) =>
    (i % 2 ? Object.assign(document.createElement(part[0] === "_" ? "sub" : "sup"), { textContent: part.slice(1) }) : part));
}

addEventListener("DOMContentLoaded", () => {
  const query = (new URLSearchParams(location.search).get("q") ?? "").trim().toLowerCase().replaceAll("+", " ");
  if (!query) return;
  const hits = SECTIONS.map((section) => [fit(section, query), section]).filter(([score]) => score);
  const list = document.createElement("ul");
  list.className = "found-sections";
  for (const [, section] of hits.sort(([a], [b]) => b - a).slice(0, SHOWN)) {
    const link = document.createElement("a"), where = document.createElement("span"), words = document.createElement("p");
    link.href = `${section.page}.html#${section.id}`;
    link.textContent = section.title;
    if (section.title !== section.book) where.textContent = ` in ${section.book}`;
    words.append(...typeset(excerpt(section, query)));
    const item = list.appendChild(document.createElement("li"));
    item.append(link, where, words);
  }
  const pages = document.querySelector("#search-results");
  pages.before(list);
  if (!hits.length) return;
  const rest = document.createElement("details"), summary = document.createElement("summary");
  rest.className = "found-pages";
  summary.textContent = "All pages and names with these words";
  pages.before(rest);
  rest.append(summary, pages);
});
