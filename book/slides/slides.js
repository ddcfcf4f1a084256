/** Start the deck. Arrow keys move, S opens the speaker's notes, Esc shows all slides; a phone that is held upright shows a page. */
const upright = matchMedia("(max-width: 46rem) and (orientation: portrait)");
upright.onchange = () => location.reload();
if (!upright.matches) Reveal.initialize({ width: 1280, height: 720, margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none", scrollActivationWidth: 0, plugins: [RevealNotes] });
