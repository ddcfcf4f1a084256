/** Start the deck. Arrow keys move, S opens the speaker's notes, Esc shows all slides. */
Reveal.initialize({ width: 1280, height: 720, margin: 0, center: false, hash: true, slideNumber: "c/t", transition: "none", plugins: [RevealNotes] });
