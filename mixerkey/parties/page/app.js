// The page: a picture, a key, and three ways to send. Only send() talks to the provider about pictures.
import { encrypt, randomKey, readKey, readText } from "./cipher.js";

const at = (id) => document.getElementById(id);
const element = (name, text = "") => Object.assign(document.createElement(name), { textContent: text });
let card, pixels, rightKey, wrongKey;

const ways = {
  right: { image: () => rightKey && encrypt(pixels, shape(), rightKey) },
  wrong: { image: () => encrypt(pixels, shape(), wrongKey) },
  none: { image: () => pixels },
};

const shape = () => [card.channels, card.height, card.width];
const say = (text) => { at("message").textContent = text; };

async function ask(path, options = {}) {
  const token = at("token").value;
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) at("token-choice").hidden = false;
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail);
  return answer;
}

async function send(way) {
  const place = at(way).querySelector(".answer");
  try {
    const answer = await ask("v1/classify", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "Key-Id": card.key_id },
      body: ways[way].image(),
    });
    place.replaceChildren(element("strong", answer.labels[0]), bars(answer.probabilities[0]));
  } catch (error) {
    place.replaceChildren(element("p", `No answer: ${error.message}`));
  }
}

function bars(probabilities) {
  const list = element("ol");
  probabilities.forEach((p, i) => {
    const row = element("li"), meter = element("meter");
    meter.value = p;
    row.append(element("span", card.classes[i]), meter, element("span", `${Math.round(100 * p)} %`));
    list.append(row);
  });
  return list;
}

function draw(canvas, image) {
  const [C, H, W] = shape(), data = new ImageData(W, H);
  for (let i = 0; i < H * W; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = image[(C === 3 ? c : 0) * H * W + i];
    data.data[4 * i + 3] = 255;
  }
  Object.assign(canvas, { width: W, height: H });
  canvas.getContext("2d").putImageData(data, 0, 0);
}

/** A random key that is not the right one, which for 2 × 2 grey blocks would happen once in 144 draws. */
function drawWrongKey() {
  do wrongKey = randomKey(card.patch_size, card.channels);
  while (rightKey && String([wrongKey.v, wrongKey.r]) === String([rightKey.v, rightKey.r]));
}

function show() {
  at("right").querySelector(".note").textContent = !rightKey ? "Choose your key above."
    : `From ${rightKey.name}.` + (rightKey.id && rightKey.id !== card.key_id
      ? ` It is the key ${rightKey.id}, not the one of this model: the answer is that of a wrong key.` : "");
  for (const [way, { image }] of Object.entries(ways)) {
    const article = at(way), ready = pixels && image();
    article.querySelector("button").disabled = article.querySelector("canvas").hidden = !ready;
    article.querySelector(".answer").replaceChildren();
    if (!ready) continue;
    draw(article.querySelector("canvas"), ready);
    const hex = Array.from(ready.slice(0, 12), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    article.querySelector(".bytes").textContent = `${ready.length} bytes: ${hex} …`;
  }
}

/** A picture file as pixels of the model's size, by the browser, in memory only. */
async function readPicture(file) {
  const [C, H, W] = shape(), canvas = Object.assign(document.createElement("canvas"), { width: W, height: H });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, W, H);
  context.drawImage(await createImageBitmap(file), 0, 0, W, H);
  const { data } = context.getImageData(0, 0, W, H), image = new Uint8Array(C * H * W);
  for (let i = 0; i < H * W; i++) {
    const [red, green, blue] = data.slice(4 * i, 4 * i + 3);
    if (C === 1) image[i] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    else [red, green, blue].forEach((value, c) => { image[c * H * W + i] = value; });
  }
  return image;
}

async function chooseModel(chosen) {
  card = chosen;
  rightKey = pixels = undefined;
  at("key").value = "";
  drawWrongKey();
  const [C, H, W] = shape();
  at("resized").textContent = `(resized to ${W} × ${H}${C === 1 ? ", grey" : ""})`;
  at("samples").hidden = String(shape()) !== "1,8,8";
  if (!at("samples").hidden) {
    const samples = await (await fetch("page/samples.json")).json();
    at("sample-list").replaceChildren(...samples.map(({ label, pixels: values }) => {
      const button = element("button"), canvas = element("canvas");
      button.setAttribute("aria-label", `a handwritten ${label}`);
      draw(canvas, values);
      button.append(canvas);
      button.onclick = () => { pixels = Uint8Array.from(values); show(); };
      return button;
    }));
    pixels = Uint8Array.from(samples[3].pixels);
  }
  show();
}

async function start() {
  try {
    const cards = await ask("v1/models");
    at("model").replaceChildren(...cards.map(({ key_id: id }) => new Option(id)));
    at("model-choice").hidden = cards.length < 2;
    at("model").onchange = () => chooseModel(cards[at("model").selectedIndex]);
    await chooseModel(cards[0]);
    say("");
  } catch (error) {
    say(error.message);
  }
}

at("token").onchange = start;
at("picture").onchange = async ({ target }) => {
  if (!target.files.length) return;
  try {
    pixels = await readPicture(target.files[0]);
    say("");
    show();
  } catch {
    say("Your browser can't read this picture; try a PNG or a JPEG.");
  }
};
at("key").onchange = async ({ target }) => {
  if (!target.files.length) return;
  const { name } = target.files[0];
  try {
    rightKey = { ...readKey(await readText(target.files[0]), card.patch_size, card.channels), name };
    drawWrongKey();
    say("");
  } catch (error) {
    rightKey = undefined;
    say(error.message);
  }
  show();
};
at("redraw").onclick = (event) => {
  event.preventDefault();
  drawWrongKey();
  show();
};
for (const way of Object.keys(ways)) at(way).querySelector("button").onclick = () => send(way);
start();
