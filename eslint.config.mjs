import js from "@eslint/js";
import globals from "globals";

/** Rules against mistakes, not about style: undefined or unused names, code that cannot run, promises without effect. */
export default [
  { ignores: ["build/", "dist/", "bench/build/", "target/", "**/target/", ".tools/", "**/.wrangler/", "**/.next/"] },
  js.configs.recommended,
  {
    languageOptions: { globals: globals.node },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    // `{ host: _, ...rest }` leaves a field out on purpose. Some regular expressions have to match control characters.
    rules: {
      "no-unused-vars": ["error", { ignoreRestSiblings: true, argsIgnorePattern: "^_", varsIgnorePattern: "^_$" }],
      "no-control-regex": "off",
    },
  },
  // The page runs in a browser and shows texts that attackers send, so nothing may turn a text into markup.
  {
    files: ["page/**"],
    languageOptions: { globals: globals.browser },
    rules: {
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc", "write", "writeln", "setHTMLUnsafe"].map((property) => ({ property, message: "This turns text into markup. Make elements with h of page/dom.js." })),
      ],
    },
  },
  { files: ["examples/next/**"], languageOptions: { parserOptions: { ecmaFeatures: { jsx: true } } } },
  // Parts of these files run in the page that they test.
  { files: ["tests/page/**"], languageOptions: { globals: { ...globals.node, ...globals.browser } } },
];
