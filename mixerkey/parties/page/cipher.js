// The image cipher of Iijima and Kiya (2022), Eq. (4) and (5), and the keys it takes.
// Pixels are a Uint8Array in the order (channel, row, column); a key is {patchSize: M, channels: C, v, r, id}; the id may be missing.

/** Encrypt: pixel k of each block becomes pixel v[k] of that block, flipped (XOR 255) where r[k] is 1. */
export function encrypt(pixels, [C, H, W], { patchSize: M, v, r }) {
  const encrypted = new Uint8Array(pixels.length);
  const place = (k, top, left) => {
    const channel = Math.floor(k / (M * M)), row = top + (Math.floor(k / M) % M), column = left + (k % M);
    return (channel * H + row) * W + column;
  };
  for (let top = 0; top < H; top += M) {
    for (let left = 0; left < W; left += M) {
      for (let k = 0; k < M * M * C; k++) {
        encrypted[place(k, top, left)] = pixels[place(v[k], top, left)] ^ (r[k] ? 255 : 0);
      }
    }
  }
  return encrypted;
}

/** Decrypt: undo encrypt with the same key. */
export const decrypt = (pixels, shape, key) => encrypt(pixels, shape, inverse(key));

/** The key that undoes a key. */
export function inverse({ v, r, ...shape }) {
  const back = { ...shape, v: new Array(v.length), r: new Array(v.length) };
  v.forEach((from, k) => { back.v[from] = k; back.r[from] = r[k]; });
  return back;
}

/** The text of a file in UTF-8 or UTF-16, as editors save it. */
export async function readText(file) {
  const bytes = new Uint8Array(await file.arrayBuffer()), mark = bytes[0] << 8 | bytes[1];
  return new TextDecoder({ 0xfffe: "utf-16le", 0xfeff: "utf-16be" }[mark] ?? "utf-8").decode(bytes);
}

/** Read a key file that mixerkey wrote; throws an Error that says what is wrong. */
export function readKey(text, patchSize, channels) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This is not a complete JSON file; copy the key again.");
  }
  if (file?.format !== "mixerkey Key" || file.version !== 1) throw new Error("This is not a mixerkey key, version 1.");
  if (file.patch_size !== patchSize || file.channels !== channels) {
    throw new Error(`This key is for blocks of ${file.patch_size} and ${file.channels} channel(s); ` +
      `the model needs ${patchSize} and ${channels}.`);
  }
  const size = patchSize * patchSize * channels, { permutation: v, flips: r } = file;
  const complete = Array.isArray(v) && Array.isArray(r) && v.length === size && r.length === size;
  if (!complete || new Set(v).size !== size || v.some((k) => !Number.isInteger(k) || k < 0 || k >= size)) {
    throw new Error("The key's permutation is damaged; copy the key again.");
  }
  if (r.some((bit) => bit !== 0 && bit !== 1) || r.reduce((a, b) => a + b) !== Math.floor(size / 2)) {
    throw new Error("The key's flips are damaged; copy the key again.");
  }
  const id = file.id ?? undefined;
  if ((id !== undefined && !/^[0-9a-f]{16}$/.test(id)) || file.checksum !== checksum({ ...file, id })) {
    throw new Error("The key does not match its checksum; copy the key again.");
  }
  return { patchSize, channels, v, r, id };
}

/** As mixerkey.key_files: SHA-256 of the document as Python's json.dumps(…, sort_keys=True) writes it. */
export function checksum({ channels, flips, format, id, patch_size: M, permutation, version }) {
  return sha256(`{"channels": ${channels}, "flips": [${flips.join(", ")}], "format": "${format}", ` +
    `${id === undefined ? "" : `"id": "${id}", `}"patch_size": ${M}, ` +
    `"permutation": [${permutation.join(", ")}], "version": ${version}}`);
}

/** A key of that block shape, each equally likely. */
export function randomKey(patchSize, channels) {
  const size = patchSize * patchSize * channels;
  const half = Math.floor(size / 2);
  const v = shuffled(Array.from({ length: size }, (_, k) => k));
  const r = shuffled(Array.from({ length: size }, (_, k) => (k < half ? 1 : 0)));
  return { patchSize, channels, v, r };
}

/** Fisher and Yates, with the browser's cryptographic random numbers. */
export function shuffled(items) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

/** Uniform over 0..n-1: draws again where 2**32 is not a multiple of n. */
export function below(n) {
  const limit = 2 ** 32 - (2 ** 32 % n), drawn = new Uint32Array(1);
  do crypto.getRandomValues(drawn); while (drawn[0] >= limit);
  return drawn[0] % n;
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
