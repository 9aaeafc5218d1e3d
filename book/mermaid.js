// SPDX-License-Identifier: Apache-2.0
// Draws the Mermaid diagrams of the book; without a network they stay readable as text.
const diagrams = document.querySelectorAll("code.language-mermaid");
if (diagrams.length) {
    import("https://cdn.jsdelivr.net/npm/mermaid@11/dist/mermaid.esm.min.mjs").then(async (module) => {
        for (const code of diagrams) {
            const drawing = document.createElement("pre");
            drawing.className = "mermaid";
            drawing.textContent = code.textContent;
            code.parentElement.replaceWith(drawing);
        }
        module.default.initialize({ startOnLoad: false });
        await module.default.run();
    });
}
