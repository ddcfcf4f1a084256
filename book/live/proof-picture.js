/** The picture of the proof, as the text of an SVG, so that it can be drawn before there is a page. */

// The chapter's block, matrix and key, Key.from_seed(7, patch_size=2, channels=1).
export const X = [1, 3, -5, 7];
export const E = [[2, 1], [0, -1], [1, 3], [-1, 2]];
export const KEY = { v: [2, 0, 1, 3], r: [1, 0, 1, 0] };

const PLAIN = "z = xE";

// A move says for each pixel, or row of E, in which place it stands and with which sign.
const STAY = X.map((_, k) => ({ place: k, sign: 1 }));
const signs = ({ r }) => r.map((flip) => (flip ? -1 : 1));

/** x ↦ xT and E ↦ TᵀE: place k receives number v[k]. */
function encrypt(key) {
  const move = [];
  signs(key).forEach((sign, k) => { move[key.v[k]] = { place: k, sign }; });
  return move;
}

/** E ↦ TE: number k goes to place v[k]. */
const transposed = (key) => signs(key).map((sign, k) => ({ place: key.v[k], sign }));

/** The five steps: what stands where, under which names, and in words. */
export function steps(key) {
  const shuffled = encrypt({ ...key, r: key.r.map(() => 0) }), moved = encrypt(key);
  const step = (pixels, rows, names, words) => ({ pixels, rows, names, words });
  return [
    step(STAY, STAY, ["x", "E", PLAIN], "Plain: each pixel meets its own row of E. Pixel times row, added up column by column, is z."),
    step(shuffled, shuffled, ["x shuffled", "E shuffled", "product"],
      "The pixels change places, and their rows go with them. The same products are added in another order: z stays."),
    step(moved, moved, ["x′ = xT", "E′ = TᵀE", "x′E′"],
      "Where a pixel turns negative its row does too, and (−x)(−e) = xe: z stays. This is the proof: (xT)(TᵀE) = x(TTᵀ)E = xE."),
    step(moved, STAY, ["x′ = xT", "E", "x′E"],
      "Only the picture is encrypted: the threads cross, pixels meet the rows of others, and z is lost."),
    step(moved, transposed(key), ["x′ = xT", "TE", "x′(TE)"],
      "The transpose instead: T on both sides. The rows went the other way, the threads cross, and z is lost."),
  ];
}

/** What is multiplied for column j, place by place: [[pixel, entry], …]. */
export const terms = ({ pixels, rows }, j) => X.map((_, place) => {
  const [k, l] = [pixels, rows].map((move) => move.findIndex((one) => one.place === place));
  return [pixels[k].sign * X[k], rows[l].sign * E[l][j]];
});
export const sums = (step) => [0, 1].map((j) => terms(step, j).reduce((sum, [a, b]) => sum + a * b, 0));

/** A key whose last two steps cross the threads and miss z in both columns: others would hide the mistake. */
export function tellingKey(draw) {
  for (;;) {
    const key = draw(), [plain, , , ...wrong] = steps(key).map(sums), involution = key.v.every((place, k) => key.v[place] === k);
    if (!involution && wrong.every((sum) => sum.every((value, j) => value !== plain[j]))) return key;
  }
}

const COLOURS = ["blue", "vermilion", "green", "purple"].map((name) => `var(--mixer-${name})`);
const INK = "var(--mixer-ink)", SOFT = "var(--mixer-soft)", PAPER = "var(--mixer-paper)";
const TOP = 32, ROW = 38, CELL = 30, BLOCK = 4, PIXEL = 72, LEFT = 164, WIDTH = 40; // of the drawing, in its own units

const minus = (number) => String(number).replace("-", "−");
const factor = (number) => (number < 0 ? `(${minus(number)})` : number);
const text = (x, y, words, fill = INK, more = "") => `<text x="${x}" y="${y}" style="fill: ${fill}"${more}>${words}</text>`;
const middle = ' text-anchor="middle"', end = ' text-anchor="end"', italic = ' font-style="italic"';

/** A cell in the colour of its pixel, filled where it is negated. */
function cell(x, y, width, height, k, sign, words = "") {
  const box = `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="3" style="fill: ${COLOURS[k]}; stroke: ${COLOURS[k]}; fill-opacity: ${sign < 0 ? 1 : 0.2}"/>`;
  return box + text(x + width / 2, y + height / 2 + 5, words, sign < 0 ? PAPER : INK, middle);
}

/** Draw a step, its pixels and rows perhaps still on their way; `asked` is the column that is added up term by term. */
export function picture(step, { asked = -1, pixels = step.pixels, rows = step.rows } = {}) {
  const plain = X.map((x, k) => E[k].map((e) => x * e)).reduce((a, b) => a.map((value, j) => value + b[j]));
  const y = (place) => TOP + ROW * place, found = sums(step), parts = [];
  for (const k of X.keys()) {
    const { place, sign } = pixels[k], row = rows[k], [from, to] = [place, row.place].map((p) => y(p) + CELL / 2);
    const home = Math.round(place);
    parts.push(`<path class="proof-thread" d="M${PIXEL + WIDTH} ${from}C${PIXEL + WIDTH + 26} ${from} ${LEFT - 26} ${to} ${LEFT} ${to}" style="fill: none; stroke: ${COLOURS[k]}; stroke-width: 3"/>`);
    parts.push(cell(BLOCK + 24 * (home % 2), y(1) + 10 + 24 * Math.floor(home / 2), 22, 22, k, sign));
    parts.push(`<g class="proof-x">${cell(PIXEL, y(place), WIDTH, CELL, k, sign, minus(sign * X[k]))}</g>`);
    parts.push(`<g class="proof-E">${[0, 1].map((j) => cell(LEFT + j * (WIDTH + 2), y(row.place), WIDTH, CELL, k, row.sign, minus(row.sign * E[k][j]))).join("")}</g>`);
  }
  const sum = y(4) + 6, right = LEFT + 2 * WIDTH + 10;
  const line = (name, top, values, mark) => `<g class="proof-${name}">` + values.map((value, j) =>
    text(LEFT + j * (WIDTH + 2) + WIDTH / 2, top, minus(value), INK, `${middle} font-weight="600"`)).join("") + `</g>${mark}`;
  const same = found.every((value, j) => value === plain[j]);
  const verdict = text(right, sum + 16, same ? "= z" : "≠ z", same ? "var(--mixer-green)" : "var(--mixer-vermilion)", ' font-weight="600" class="proof-verdict"');
  parts.push(text(BLOCK + 23, y(1), "block", SOFT, middle), text(PIXEL + WIDTH / 2, TOP - 10, step.names[0], INK, middle + italic),
    text(LEFT + WIDTH, TOP - 10, step.names[1], INK, middle + italic),
    `<path d="M${LEFT} ${sum - 4}h${2 * WIDTH + 2}" style="stroke: ${INK}"/>`,
    text(LEFT - 8, sum + 16, step.names[2], INK, end + italic));
  if (step.names[2] === PLAIN) parts.push(line("z", sum + 16, plain, ""));
  else parts.push(line("sum", sum + 16, found, verdict), text(LEFT - 8, sum + 42, PLAIN, INK, end + italic), line("z", sum + 42, plain, ""));
  if (asked >= 0) {
    parts.push(`<rect x="${LEFT + asked * (WIDTH + 2) - 2}" y="${TOP - 4}" width="${WIDTH + 4}" height="${sum + 26 - TOP}" rx="5" style="fill: none; stroke: ${INK}; stroke-width: 1.5"/>`);
    terms(step, asked).forEach(([a, b], place) => parts.push(text(right, y(place) + CELL / 2 + 5,
      `${place ? "+ " : ""}${place ? factor(a) : minus(a)} · ${factor(b)}`, SOFT, ' class="proof-term"')));
  }
  return `<svg class="proof-picture" viewBox="0 0 344 ${sum + 52}" role="img" aria-label="Four pixels beside four rows of a matrix, joined by threads. ${step.words}">${parts.join("")}</svg>`;
}

/** The step that paper and pages without scripts show: both encrypted. */
export const TELLING = 2;
export const still = () => picture(steps(KEY)[TELLING]);
