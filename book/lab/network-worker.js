// Classifies off the page's thread. {buffer} loads a network and answers {sizes, E}; {id, images, shape, key, normalised}
// answers {id, results: probabilities of each image}. An image is {pixels, encrypted: whether the model is}.
import { classify, encryptNetwork, probabilities, readNetwork } from "./convmixer.js";

let network;

onmessage = ({ data: { buffer, id, images, shape, key, normalised } }) => {
  try {
    if (buffer) {
      network = readNetwork(buffer);
      postMessage({ sizes: network.sizes, weight: network.embedding.weight });
      return;
    }
    const encrypted = encryptNetwork(network, key);
    const results = images.map((image) =>
      probabilities(classify(image.encrypted ? encrypted : network, image.pixels, shape, normalised)));
    postMessage({ id, results });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
};
