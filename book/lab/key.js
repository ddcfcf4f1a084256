// What the lab does with keys beyond the cipher itself: files, partly wrong keys, single steps.
import { readKey, shuffled } from "../cipher.js";

export const SIZES = [2, 4, 8]; // of M

/** The text of a key file, the same format as the package's Key.save. */
export function writeKey({ patchSize, channels, v, r }) {
  const file = {
    format: "mixerkey Key", version: 1, patch_size: patchSize, channels, permutation: Array.from(v), flips: Array.from(r, Number),
  };
  return JSON.stringify({ ...file, checksum: checksum(file) }, null, 1) + "\n";
}

/** Read a key file for pictures with that many channels, its checksum too; throws an Error that says what is wrong. */
export function openKey(text, channels) {
  let file = null;
  try {
    file = JSON.parse(text);
  } catch { /* readKey says so */ }
  if (file?.format === "mixerkey Key" && file.version === 1 && !SIZES.includes(file.patch_size)) {
    throw new Error(`This key is for blocks of ${file.patch_size}; the lab has blocks of ${SIZES.join(", ")}.`);
  }
  const key = readKey(text, file?.patch_size, channels);
  if (file.checksum !== checksum(file)) throw new Error("The key does not match its checksum; copy the key again.");
  return key;
}

/** As mixerkey.keys: SHA-256 of the document as Python's json.dumps(…, sort_keys=True) writes it. */
function checksum({ channels, flips, format, patch_size: M, permutation, version }) {
  return sha256(`{"channels": ${channels}, "flips": [${flips.join(", ")}], "format": "${format}", "patch_size": ${M}, ` +
    `"permutation": [${permutation.join(", ")}], "version": ${version}}`);
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

/** SHA-256 of a text (FIPS 180-4), in hexadecimal; crypto.subtle would need https. */
export function sha256(text) {
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const bits = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32);
  const K = primes.map((p) => bits(Math.cbrt(p))), hash = Uint32Array.from(primes.slice(0, 8), (p) => bits(Math.sqrt(p)));
  const bytes = new TextEncoder().encode(text);
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64), view = new DataView(padded.buffer);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  view.setUint32(padded.length - 4, bytes.length * 8);
  const turn = (x, n) => (x >>> n) | (x << (32 - n)), w = new Uint32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let t = 0; t < 64; t++) {
      if (t < 16) { w[t] = view.getUint32(block + 4 * t); continue; }
      const x = w[t - 15], y = w[t - 2];
      w[t] = w[t - 16] + w[t - 7] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let t = 0; t < 64; t++) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[t] + w[t]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [a, b, c, d, e, f, g, h] = [(one + two) | 0, a, b, c, (d + one) | 0, e, f, g];
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => { hash[i] += x; });
  }
  return Array.from(hash, (x) => x.toString(16).padStart(8, "0")).join("");
}
