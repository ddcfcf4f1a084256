// Files of this site. A page that is opened from the disk may not fetch them, but it may run the scripts beside them.
const ROOT = new URL("..", document.currentScript.src);

/**
 * The bytes of a file. `moved(share)` is told how much has arrived where it is known how long the file is. Throws an
 * AbortError when the signal says so.
 */
export async function read(name, { bytes, moved, signal } = {}) {
  if (location.protocol === "file:") return readScript(name);
  const response = await fetch(new URL(name, ROOT), { signal });
  if (!response.ok) throw new Error(`the site answered ${response.status}`);
  if (!bytes) return response.arrayBuffer();
  const reader = response.body.getReader(), file = new Uint8Array(bytes);
  let have = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (have + value.length > bytes) throw new Error("the file is longer than it should be");
    file.set(value, have);
    have += value.length;
    moved(have / bytes);
  }
  if (have !== bytes) throw new Error("the file is not complete");
  return file.buffer;
}

export const readJson = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));

function readScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = () => resolve(Uint8Array.from(atob(mixerFiles.get(name)), (letter) => letter.charCodeAt(0)).buffer);
    script.onerror = () => reject(new Error(`${name}.js is not there`));
    script.src = new URL(`${name}.js`, ROOT);
    document.head.append(script);
  });
}

/** A worker from the text of its script: a page that is opened from the disk may not name a file. */
export const work = (code) => new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
