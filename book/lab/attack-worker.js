// Runs the attack off the page's thread: it is given public images and ciphertexts, and no key.
import { ciphertextOnly, imageStatistics } from "./attack.js";

onmessage = ({ data: { known, ciphertexts, shape, patchSize } }) => {
  try {
    const prior = imageStatistics(known, shape, patchSize);
    const key = ciphertextOnly(ciphertexts, shape, patchSize, prior, { found: (done, key) => postMessage({ done, key }) });
    postMessage({ done: 1, key, finished: true });
  } catch (error) {
    postMessage({ error: error.message });
  }
};
