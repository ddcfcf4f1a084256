/* The sections that fit best, above the pages that Sphinx finds: an equation by its number, a phrase, then all words. */
const SHOWN = 6, AROUND = 90; // sections; letters of the text on each side

/** How well a section answers: 0 where it does not have every word. */
function fit({ title, text, equations }, query) {
  const wanted = query.match(/^eq(?:uation)?s?\.?\s*\(?(\d+)\)?$/);
  if (wanted) return equations.includes(wanted[1]) ? 1 : 0;
  const head = title.toLowerCase(), body = text.toLowerCase();
  let score = head.includes(query) ? 100 : body.includes(query) ? 50 : 0;
  for (const word of query.split(/\s+/)) {
    const times = body.split(word).length - 1;
    if (!times && !head.includes(word)) return 0;
    score += (head.includes(word) ? 10 : 0) + Math.min(times, 5);
  }
  return score;
}

/** A few words of the section around the first that was asked for. */
function excerpt({ text }, query) {
  const at = [query, ...query.split(/\s+/)].map((word) => text.toLowerCase().indexOf(word)).find((place) => place >= 0) ?? 0;
  const from = Math.max(0, at - AROUND), to = at + AROUND;
  return (from ? "… " : "") + text.slice(from, to).trim() + (to < text.length ? " …" : "");
}

/** Words with what stands low or high in their formulas. */
function typeset(words) {
  return words.split(/((?<=\b[A-Za-z])_\w\b|\^\w)/).map((part, i) =>
    (i % 2 ? Object.assign(document.createElement(part[0] === "_" ? "sub" : "sup"), { textContent: part[1] }) : part));
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
  document.querySelector("#search-results").before(list);
});
