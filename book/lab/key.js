// What the lab does with keys beyond the cipher itself: files, partly wrong keys, single steps.
import { checksum, readKey, shuffled } from "../../mixerkey/parties/page/cipher.js";

export const SIZES = [2, 4, 8]; // of M

/** The text of a key file, the same format as the package's Key.save. */
export function writeKey({ patchSize, channels, v, r }) {
  const file = {
    format: "mixerkey Key", version: 1, patch_size: patchSize, channels, permutation: Array.from(v), flips: Array.from(r, Number),
  };
  return JSON.stringify({ ...file, checksum: checksum(file) }, null, 1) + "\n";
}

/** Read a key file for pictures with that many channels; throws an Error that says what is wrong. */
export function openKey(text, channels) {
  let file = null;
  try {
    file = JSON.parse(text);
  } catch { /* readKey says so */ }
  if (file?.format === "mixerkey Key" && file.version === 1 && !SIZES.includes(file.patch_size)) {
    throw new Error(`This key is for blocks of ${file.patch_size}; the lab has blocks of ${SIZES.join(", ")}.`);
  }
  return readKey(text, file?.patch_size, channels);
}

/** The key with only those of its two steps that are on. */
export const withSteps = ({ v, r, ...shape }, { shuffle, flip }) => ({
  ...shape, v: shuffle ? v : v.map((_, k) => k), r: flip ? r : r.map(() => 0),
});

/** In which order a key goes wrong: positions, and flips that are on and off, each at random. */
export const drawChoice = ({ v, r }) => ({
  moved: shuffled([...v.keys()]),
  on: shuffled([...r.keys()].filter((k) => r[k])),
  off: shuffled([...r.keys()].filter((k) => !r[k])),
});

/** A key that differs in exactly so many positions and signs, as mixerkey.evaluation.partly_wrong: the first of a choice. */
export function partlyWrong({ v, r, ...shape }, { moved, on, off }, positions, signs) {
  const wrong = { ...shape, v: [...v], r: [...r] }, chosen = moved.slice(0, positions);
  // One cycle through the chosen places, in their random order, moves each of them.
  chosen.forEach((k, i) => { wrong.v[k] = v[chosen.at(i - 1)]; });
  for (const places of [on, off]) for (const k of places.slice(0, signs / 2)) wrong.r[k] = 1 - r[k];
  return wrong;
}

/** How many positions and signs are wrong at that fraction: one position alone can't be, and flips stay balanced. */
export function wrongCounts(size, fraction) {
  const positions = Math.round(fraction * size);
  return { positions: positions === 1 ? 2 : positions, signs: 2 * Math.round((fraction * size) / 2) };
}

const TURNS = [0, 1, 2, 3, 4, 5, 6, 7].map((bits) => (u, w, last) => { // the symmetries of a square
  const [row, column] = bits & 1 ? [w, u] : [u, w];
  return [bits & 2 ? last - row : row, bits & 4 ? last - column : column];
});
const COLOURS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/** Send each plain pixel that a key names somewhere else in its block. */
const moved = (key, to) => ({ ...key, v: key.v.map((place) => {
  const M = key.patchSize, [channel, row, column] = to(Math.floor(place / (M * M)), Math.floor(place / M) % M, place % M);
  return (channel * M + row) * M + column;
}) });

/** Keys that show the same blocks turned, mirrored and negative, the key itself first. */
export const turned = (key) => [false, true].flatMap((negative) => TURNS.map((turn) => {
  const turnedKey = moved(key, (channel, u, w) => [channel, ...turn(u, w, key.patchSize - 1)]);
  return negative ? { ...turnedKey, r: key.r.map((flip) => 1 - flip) } : turnedKey;
}));

/** Keys that show the same blocks with their colours exchanged, the key itself first. */
export const coloured = (key) => COLOURS.map((order) => moved(key, (channel, u, w) => [order[channel], u, w]));
