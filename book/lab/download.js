// Files of this site, fetched when the reader asks.

/** The bytes of a file; `moved(share)` is told how much has arrived. Throws an AbortError when the signal says so. */
export async function download(url, bytes, moved, signal) {
  const response = await fetch(url, { signal });
  if (!response.ok) throw new Error(`the site answered ${response.status}`);
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
