import js from "@eslint/js";
import globals from "globals";

/** What is wrong, not what is ugly: a name that nothing defines or uses, code that cannot run, a promise built to no end. */
export default [
  { ignores: ["build/", "dist/", "bench/build/", "target/", "**/target/", ".tools/", "**/.wrangler/", "**/.next/"] },
  js.configs.recommended,
  {
    languageOptions: { globals: globals.node },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    // `{ host: _, ...rest }` is how to leave fields out; a control character is what some expressions are for.
    rules: {
      "no-unused-vars": ["error", { ignoreRestSiblings: true, argsIgnorePattern: "^_", varsIgnorePattern: "^_$" }],
      "no-control-regex": "off",
    },
  },
  // What runs in a browser. It shows what attackers send, so that nothing becomes markup.
  {
    files: ["page/**"],
    languageOptions: { globals: globals.browser },
    rules: {
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc", "write", "writeln", "setHTMLUnsafe"].map((property) => ({ property, message: "Show text as text: page/dom.js." })),
      ],
    },
  },
  { files: ["examples/next/**"], languageOptions: { parserOptions: { ecmaFeatures: { jsx: true } } } },
  // Parts of these run in the page that they test.
  { files: ["tests/page/**"], languageOptions: { globals: { ...globals.node, ...globals.browser } } },
];
