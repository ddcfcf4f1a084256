// The lab's page: what the reader has chosen, and what is shown of it. The work is done in the other modules.
import { below, decrypt, encrypt, randomKey, readText } from "../../mixerkey/parties/page/cipher.js";
import attackCode from "./attack-worker.js?worker";
import { read, readJson, work } from "./files.js";
import { coloured, drawChoice, openKey, partlyWrong, turned, withSteps, wrongCounts, writeKey } from "./key.js";
import networkCode from "./network-worker.js?worker";
import { crops, draw, drawMatrix, load, middle, tile } from "./pictures.js";

const COLOURS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const SAMPLES = [...COLOURS.map((name) => `${name}, CIFAR-10`), "temple, photograph", "flower, photograph"];
const NETWORKS = { // by patch size and channels
  "4,3": { file: "cifar10.safetensors", bytes: 2917088, classes: COLOURS, name: "ConvMixer-256/8" },
  "2,1": { file: "digits.safetensors", bytes: 94992, classes: [..."0123456789"], name: "The pocket ConvMixer for digits" },
};
const PAIRS = [["plain", false], ["plain", true], ["encrypted", false], ["encrypted", true], ["partly", true]];
const SHORT = ["plain", "encrypted"].flatMap((image) => ["plain", "encrypted"].map((model) => [`${image} image`, `${model} model`]));
const PUBLIC = 1000; // crops that the attacker knows
const COLUMNS = 12, SHOWN = 24; // ciphertexts that the console shows

const at = (id) => document.getElementById(`lab-${id}`);
const element = (name, text = "", more = {}) => Object.assign(document.createElement(name), { textContent: text, ...more });
const same = (a, b) => String([a.v, a.r]) === String([b.v, b.r]);
const percent = (share) => `${Math.round(100 * share)} %`;
const say = (id, text) => { at(id).textContent = text; };

let picture, M = 4, fraction = 0.25, photos, attacker, camera;
const keys = {}; // of each shape: {key, wrong, choice}
const networks = {}; // of each shape, once fetched: {worker, weight, sizes}

const shape = () => `${M},${picture.shape[0]}`;

/** The key of the present shape, drawn when it is first needed. */
function own() {
  if (!keys[shape()]) setKey(randomKey(M, picture.shape[0]));
  return keys[shape()];
}

function setKey(key) {
  let wrong;
  do wrong = randomKey(key.patchSize, key.channels); while (same(wrong, key));
  keys[`${key.patchSize},${key.channels}`] = { key, wrong, choice: drawChoice(key) };
}

/** The keys that are in use, with the steps that are on. */
function inUse() {
  const { key, wrong, choice } = own(), { positions, signs } = wrongCounts(key.v.length, fraction);
  const steps = { shuffle: at("shuffle").checked, flip: at("flip").checked };
  const partly = partlyWrong(key, choice, positions, signs);
  return { right: withSteps(key, steps), wrong: withSteps(wrong, steps), partly: withSteps(partly, steps), positions, signs };
}

function show() {
  const { right, wrong, partly, positions, signs } = inUse(), size = right.v.length, { pixels, shape: dimensions } = picture;
  const encrypted = encrypt(pixels, dimensions, right);
  draw(at("plain"), pixels, dimensions);
  draw(at("encrypted"), encrypted, dimensions);
  for (const [id, key] of Object.entries({ right, wrong, partly })) {
    draw(at(`by-${id}`), decrypt(encrypted, dimensions, key), dimensions);
  }
  say("picture-name", picture.name);
  say("key-size", `Blocks of ${M} × ${M}, ${picture.shape[0] > 1 ? "each place with its red, green and blue" : "grey"}: ` +
    `a key moves ${size} numbers, called pixels, and flips ${size / 2} of them.`);
  document.querySelectorAll(".lab-fraction").forEach((slider) => {
    slider.value = 100 * fraction;
    slider.setAttribute("aria-valuetext", `${percent(fraction)}: ${positions} of ${size} positions and ${signs} flips wrong`);
  });
  document.querySelectorAll(".lab-wrong").forEach((output) => {
    output.textContent = `${percent(fraction)}: ${positions} of ${size} positions, ${signs} of ${size} flips wrong`;
  });
  showNumbers(right, encrypted);
  showNetwork();
}

/** A few pixels of the first block on their way through the three steps. */
function showNumbers({ v, r }) {
  const [, H, W] = picture.shape;
  const pixel = (k) => picture.pixels[(Math.floor(k / (M * M)) * H + (Math.floor(k / M) % M)) * W + (k % M)];
  at("numbers").replaceChildren(...Array.from({ length: Math.min(6, v.length) }, (_, k) => {
    const shuffled = pixel(v[k]), flipped = shuffled ^ (r[k] ? 255 : 0), row = element("tr");
    const normalised = at("normalise").checked ? (2 * flipped - 255) / 255 : flipped / 255;
    for (const value of [pixel(k), v[k], shuffled, r[k], flipped]) row.append(element("td", value));
    row.prepend(element("th", k, { scope: "row" }));
    row.append(element("td", normalised.toFixed(3).replace("-", "−")));
    return row;
  }));
}

/** What the network says, or why it can't. */
function showNetwork() {
  const offer = NETWORKS[shape()], network = networks[shape()];
  at("fetch").hidden = Boolean(network);
  at("fetch").disabled = !offer;
  at("answers").hidden = !network;
  if (!network) {
    at("short").replaceChildren();
    say("network-status", "");
  }
  if (!offer) {
    say("fetch", `No network for M\u00a0=\u00a0${M}: choose M\u00a0=\u00a0${picture.shape[0] > 1 ? 4 : 2}`);
    say("network-note", `No trained network with patches of ${M} × ${M} for such pictures comes with the package: ` +
      "choose M = 4 for colour pictures, M = 2 for handwritten digits. The cipher and the attack work all the same.");
    return;
  }
  say("network-note", network ? `${offer.name} is here and runs in this page.` :
    `${offer.name}, ${(offer.bytes / 1e6).toFixed(1)} MB, from this site.`);
  say("fetch", `Fetch the network (${(offer.bytes / 1e6).toFixed(1)} MB)`);
  if (network) ask(network, offer);
}

let asked = 0;

/** Have the worker classify; while one answer is awaited, only the latest question waits. */
function ask(network, offer) {
  const { right, partly } = inUse(), { pixels, shape: dimensions } = picture;
  const images = { plain: pixels, encrypted: encrypt(pixels, dimensions, right), partly: encrypt(pixels, dimensions, partly) };
  const question = {
    id: ++asked, key: right, shape: dimensions, normalised: at("normalise").checked,
    images: PAIRS.map(([image, encrypted]) => ({ pixels: images[image], encrypted })),
  };
  network.waiting = question;
  if (!network.busy) send(network);
  drawMatrix(at("E"), network.weight, right.v.length);
  const rows = network.weight.map((_, i) => { // E', Eq. (8) and (9)
    const k = i % right.v.length, value = network.weight[i - k + right.v[k]];
    return right.r[k] ? -value : value;
  });
  drawMatrix(at("E-encrypted"), rows, right.v.length);
  network.answered = ({ id, results, error }) => {
    network.busy = false;
    if (network.waiting) send(network);
    if (id !== asked) return;
    if (error) { say("network-status", `No answer: ${error}`); return; }
    const best = results.map((probabilities) => probabilities.indexOf(Math.max(...probabilities)));
    const answers = best.map((one, i) => `${offer.classes[one]}, ${percent(results[i][one])}`);
    const verdicts = best.map((one) => verdict(offer.classes[one], offer.classes[best[0]]));
    results.forEach((probabilities, i) => at(`pair-${i}`).replaceChildren(
      element("strong", answers[i]), mark(verdicts[i]), bars(probabilities, offer.classes)));
    at("short").replaceChildren(...SHORT.map((names, i) => {
      const line = element("li");
      line.append(...names.map((name) => element("span", name)), element("strong", answers[i]), mark(verdicts[i]));
      return line;
    }));
    say("answers-said", answers.map((answer, i) => `${at(`pair-${i}`).dataset.name}: ${answer}, ${verdicts[i]}.`).join(" "));
  };
}

/** Whether an answer is right; of a picture that nobody has labelled, whether it is the plain pair's. */
function verdict(answer, plain) {
  if (picture.label) return answer === picture.label ? "right" : "wrong";
  return answer === plain ? "as plain" : "differs";
}

function mark(verdict) {
  const words = element("span", verdict);
  words.dataset.verdict = verdict;
  return words;
}

function send(network) {
  network.busy = true;
  network.worker.postMessage(network.waiting);
  network.waiting = undefined;
}

function bars(probabilities, classes) {
  const list = element("ol", "", { className: "lab-bars" });
  probabilities.forEach((p, i) => {
    const row = element("li"), bar = element("span", "", { className: "lab-bar" });
    bar.style.setProperty("--share", p);
    bar.setAttribute("aria-hidden", "true");
    row.append(element("span", classes[i]), bar, element("span", percent(p)));
    list.append(row);
  });
  return list;
}

/** Fetch the network of the present shape, with a progress bar and a way to stop. */
async function fetchNetwork() {
  const wanted = shape(), offer = NETWORKS[wanted], stop = new AbortController(), before = document.activeElement;
  at("fetch").disabled = true;
  at("download").hidden = false;
  at("download-bar").value = 0;
  at("cancel-download").onclick = () => stop.abort();
  at("cancel-download").focus();
  say("network-status", "Fetching the network.");
  let outcome = "The network is here.";
  try {
    const buffer = await read(offer.file, {
      bytes: offer.bytes, moved: (share) => { at("download-bar").value = share; }, signal: stop.signal,
    });
    const worker = work(networkCode);
    const network = await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve({ worker, ...data }));
      worker.onerror = () => reject(new Error("the browser could not start a worker"));
      worker.postMessage({ buffer }, [buffer]);
    });
    worker.onmessage = ({ data }) => network.answered(data);
    networks[wanted] = network;
  } catch (error) {
    outcome = error.name === "AbortError" ? "Cancelled: nothing was kept." : `Not fetched: ${error.message}.`;
  }
  at("fetch").disabled = false;
  at("download").hidden = true;
  show();
  say("network-status", outcome);
  (at("fetch").hidden ? at("short") : before).focus();
}

/** Encrypt what the attacker is to get, and let the worker look for the key. */
async function attack() {
  const images = Number(at("images").value), { right } = inUse(), patchSize = M;
  stopAttack();
  at("attack").disabled = true;
  at("attack-bar").value = 0;
  at("attack-progress").hidden = false;
  at("cancel-attack").focus();
  say("attack-status", "Fetching two photographs, encrypting crops of them.");
  try {
    photos ??= await Promise.all(["lab/china.jpg", "lab/flower.jpg"].map(async (name) => load(await read(name))));
  } catch (error) {
    endAttack(`The photographs did not arrive: ${error.message}.`);
    return;
  }
  const dimensions = [3, 32, 32], known = crops(photos, "left", PUBLIC, below);
  const ciphertexts = crops(photos, "right", images, below).map((image) => encrypt(image, dimensions, right));
  drawStrip(at("ciphertexts"), ciphertexts.slice(0, SHOWN));
  say("attack-status", `Looking for the key in ${images} ciphertexts.`);
  attacker = work(attackCode);
  attacker.onerror = () => endAttack("The browser could not start a worker.");
  attacker.onmessage = ({ data: { done, key, finished, error } }) => {
    if (error) { endAttack(`No key: ${error}`); return; }
    at("attack-bar").value = done;
    const text = showFound(key, right);
    if (!finished) return;
    endAttack(`Done, from ${images} ciphertext${images > 1 ? "s" : ""}: ${text}.`);
    showRelatives(key, right);
  };
  attacker.postMessage({ known, ciphertexts, shape: dimensions, patchSize }); // and no key
}

/** Decrypt the picture with a key that was found, and say how much of it is right. */
function showFound(key, right) {
  const count = (name) => key[name].filter((value, k) => value === right[name][k]).length, size = right.v.length;
  const text = `${count("v")} of ${size} positions and ${count("r")} of ${size} flips correct`;
  say("found-counts", text);
  draw(at("by-attacker"), decrypt(encrypt(picture.pixels, picture.shape, right), picture.shape, key), picture.shape);
  return text;
}

/** Let the reader's eye choose among keys that the machine may confuse; `chosen` is at first what it found. */
function showRelatives(found, right) {
  const hidden = encrypt(picture.pixels, picture.shape, right);
  const offer = (id, keys, chosen, choose) => at(id).replaceChildren(...keys.map((key, i) => {
    const button = element("button", "", { type: "button", onclick: () => choose(key) }), canvas = element("canvas");
    button.setAttribute("aria-label", `candidate ${i + 1}`);
    button.setAttribute("aria-pressed", same(key, chosen));
    draw(canvas, decrypt(hidden, picture.shape, key), picture.shape);
    button.append(canvas);
    return button;
  }));
  const colours = (blocks, chosen) => {
    offer("coloured", coloured(blocks), chosen, (key) => { colours(blocks, key); say("attack-status", `Chosen: ${showFound(key, right)}.`); });
  };
  const blocks = (chosen) => {
    offer("turned", turned(found), chosen, (key) => { blocks(key); say("attack-status", `Chosen: ${showFound(key, right)}.`); });
    colours(chosen, chosen);
  };
  blocks(found);
  at("relatives").hidden = false;
}

function endAttack(text) {
  stopAttack();
  at("attack").disabled = picture.shape[0] !== 3;
  if (document.activeElement === at("cancel-attack")) at("attack").focus();
  at("attack-progress").hidden = true;
  say("attack-status", text);
}

function stopAttack() {
  attacker?.terminate();
  attacker = undefined;
}

function drawStrip(canvas, images) {
  const context = canvas.getContext("2d"), piece = element("canvas");
  Object.assign(canvas, { width: 32 * Math.min(COLUMNS, images.length), height: 32 * Math.ceil(images.length / COLUMNS) });
  images.forEach((image, i) => {
    draw(piece, image, [3, 32, 32]);
    context.drawImage(piece, 32 * (i % COLUMNS), 32 * Math.floor(i / COLUMNS));
  });
}

/** Another picture, key, M or step: what was found before is no longer about it. */
function changed() {
  const colour = picture.shape[0] === 3;
  at("relatives").hidden = true;
  say("found-counts", "without a key");
  draw(at("by-attacker"), encrypt(picture.pixels, picture.shape, inUse().right), picture.shape);
  endAttack(colour ? "" : "The console attacks keys for colour pictures: choose one above.");
  show();
}

function setPicture(pixels, dimensions, name, label) {
  picture = { pixels, shape: dimensions, name, label };
  for (const button of at("samples").children) button.setAttribute("aria-pressed", button.title === name);
  changed();
}

/** Run what a control asks for; say what went wrong. */
const guarded = (work) => async (event) => {
  say("message", "");
  try {
    await work(event);
  } catch (error) {
    say("message", error.message);
  }
};

async function readFile(file) {
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("Your browser can't read this picture; try a PNG or a JPEG.");
  }
  setPicture(middle(bitmap, bitmap.width, bitmap.height), [3, 32, 32], file.name);
}

async function startCamera() {
  if (!navigator.mediaDevices) throw new Error("There is no camera here: browsers give it to pages over https or on localhost only.");
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    throw new Error(`The camera is not available: ${error.message}.`);
  }
  at("video").srcObject = camera;
  at("camera-view").hidden = false;
  await at("video").play();
  at("take").focus();
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = at("video").srcObject = null;
  at("camera-view").hidden = true;
  at("camera").focus();
}

function takePicture() {
  const video = at("video");
  if (!video.videoWidth) throw new Error("The camera shows nothing yet; wait a moment.");
  setPicture(middle(video, video.videoWidth, video.videoHeight), [3, 32, 32], "from the camera");
  stopCamera();
}

function setM(size) {
  M = size;
  document.querySelectorAll("[name=lab-M]").forEach((choice) => { choice.checked = Number(choice.value) === M; });
  changed();
}

function saveKey() {
  const url = URL.createObjectURL(new Blob([writeKey(own().key)], { type: "application/json" }));
  element("a", "", { href: url, download: "key.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function start() {
  // Back and reload begin anew: the picture and the key are not kept, so that the browser must not keep what was chosen.
  for (const input of document.querySelectorAll(".lab input")) input.autocomplete = "off";
  const [row, digits] = await Promise.all([
    read("lab/samples.png").then(load), readJson("samples.json"),
  ]);
  const samples = [
    ...SAMPLES.map((name, i) => ({ name, label: COLOURS[i], pixels: tile(row, i), shape: [3, 32, 32] })),
    ...[3, 5, 6].map((i) => ({ name: `handwritten ${digits[i].label}`, label: String(digits[i].label), pixels: Uint8Array.from(digits[i].pixels), shape: [1, 8, 8] })),
  ];
  at("samples").replaceChildren(...samples.map(({ name, label, pixels, shape: dimensions }) => {
    const choose = () => setPicture(pixels, dimensions, name, label);
    const button = element("button", "", { type: "button", title: name, onclick: choose });
    const canvas = element("canvas");
    button.setAttribute("aria-label", name);
    draw(canvas, pixels, dimensions);
    button.append(canvas);
    return button;
  }));
  at("file").onchange = guarded(({ target }) => readFile(target.files[0]));
  at("camera").onclick = guarded(startCamera);
  at("take").onclick = guarded(takePicture);
  at("stop").onclick = stopCamera;
  document.querySelectorAll("[name=lab-M]").forEach((choice) => { choice.onchange = () => setM(Number(choice.value)); });
  at("generate").onclick = () => {
    setKey(randomKey(M, picture.shape[0]));
    changed();
    say("message", "A new key.");
  };
  at("open").onchange = guarded(async ({ target }) => {
    if (!target.files.length) return;
    const text = await readText(target.files[0]);
    target.value = ""; // so that the same file can be opened again
    const key = openKey(text, picture.shape[0]);
    setKey(key);
    setM(key.patchSize);
    say("message", "The key is in use.");
  });
  at("save").onclick = saveKey;
  for (const id of ["shuffle", "flip", "normalise"]) at(id).onchange = changed;
  document.querySelectorAll(".lab-fraction").forEach((slider) => {
    slider.oninput = () => { fraction = slider.value / 100; show(); };
  });
  at("fetch").onclick = fetchNetwork;
  at("attack").onclick = attack;
  at("cancel-attack").onclick = () => endAttack("Cancelled.");
  at("images").oninput = () => say("images-count", at("images").value);
  const first = samples[8]; // a ship: unlike bird and frog, not what an encrypted network says about noise
  setPicture(first.pixels, first.shape, first.name, first.label);
}

class Lab extends HTMLElement {
  connectedCallback() {
    start().catch((error) => say("problem", `The lab could not start: ${error.message}.`));
  }
}
customElements.define("mixer-lab", Lab);
