/** Makes elements. Everything that the page shows goes through this file as text, so that nothing an attacker sent becomes markup. */

/**
 * Makes an element. A child is a node, a text or a number. `null`, `undefined` and `false` are left out.
 *
 * @param {string} name
 * @param {Record<string, unknown>} [attributes] a function is a listener (`onclick`), `style` is an object of properties, and `true` is an
 *   attribute without a value
 * @param {...unknown} children
 * @returns {HTMLElement}
 */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else if (key === "value") element.value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/**
 * Replaces the children of `region`. If the new children have an element with the same `data-key`, the focus stays on it, and an open
 * `details` stays open.
 */
export function swap(region, ...children) {
  const focused = region.contains(document.activeElement) ? document.activeElement.dataset?.key : undefined;
  const open = [...region.querySelectorAll("details[open]")].map(({ dataset }) => dataset.key);
  const scrolled = [...region.querySelectorAll(".scroll")].map((element) => element.scrollLeft);
  region.replaceChildren(...children.flat(Infinity).filter(Boolean));
  region.querySelectorAll(".scroll").forEach((element, at) => (element.scrollLeft = scrolled[at] ?? 0));
  for (const details of region.querySelectorAll("details")) details.open = open.includes(details.dataset.key);
  if (focused !== undefined) region.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

let ids = 0;

/** A control with its label and a hint. */
export function field(label, control, hint) {
  control.id ||= `field-${(ids += 1)}`;
  const described = hint && h("span", { class: "hint", id: `${control.id}-hint` }, hint);
  if (described) control.setAttribute("aria-describedby", described.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, described);
}

/**
 * A table. If it is too wide, it scrolls sideways within its own region.
 *
 * @param {string} caption what the table lists
 * @param {{title: string, number?: boolean, hidden?: boolean}[]} columns `hidden`: only screen readers see the title
 * @param {unknown[][]} rows a cell is anything that `h` takes as a child
 * @param {string} [style] `narrow`: only as wide as its content
 */
export function table(caption, columns, rows, style) {
  const head = columns.map(({ title, number, hidden }) =>
    h("th", { scope: "col", class: number && "number" }, hidden ? h("span", { class: "unseen" }, title) : title));
  const body = rows.map((cells) => h("tr", {}, cells.map((cell, at) => h("td", { class: columns[at].number && "number" }, cell))));
  return h(
    "div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    h("table", { class: style }, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

/** A part of a view with a heading. `aside` is shown next to the heading, `note` below it. */
export function panel(title, body, { aside, note } = {}) {
  return h("section", { class: "panel" }, h("header", {}, h("h2", {}, title), aside), note && h("p", { class: "hint" }, note), body);
}

/** A text in place of an empty list. */
export const empty = (text) => h("p", { class: "empty" }, text);

/** A text in place of data that is being loaded. */
export const loading = () => h("p", { class: "empty", "aria-busy": "true" }, "Loading…");

/**
 * A choice between several values, as buttons.
 *
 * @param {string} label
 * @param {[string, string][]} choices value and text
 * @param {string} chosen
 * @param {(value: string) => void} choose
 */
export function choice(label, choices, chosen, choose) {
  const buttons = choices.map(([value, text]) =>
    h("button", { type: "button", "aria-pressed": String(value === chosen), "data-key": `${label} ${value}`, onclick: () => choose(value) }, text));
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

/** A `select` element. `choices` are pairs of value and text. */
export function select(choices, chosen, onchange) {
  const element = h("select", { onchange: () => onchange?.(element.value) }, choices.map(([value, text]) => h("option", { value }, text)));
  element.value = chosen;
  return element;
}

/**
 * Opens a dialog with a form. It closes when `submit` resolves. If `submit` rejects, the dialog shows the error's message.
 *
 * @param {string} title
 * @param {{body?: unknown, action: string, danger?: boolean, submit: () => Promise<void>}} options
 */
export function dialog(title, { body, action, danger, submit }) {
  const opener = document.activeElement?.dataset?.key;
  const error = h("p", { class: "error", role: "alert" });
  const submitButton = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const form = h(
    "form", {
      onsubmit: async (event) => {
        event.preventDefault();
        submitButton.disabled = true;
        try {
          await submit();
          element.close();
        } catch (failure) {
          error.textContent = failure.message;
        } finally {
          submitButton.disabled = false;
        }
      },
    },
    h("h2", { id: "dialog-title" }, title), body, error,
    h("div", { class: "actions" }, submitButton, h("button", { type: "button", onclick: () => element.close() }, "Cancel")),
  );
  const element = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => {
    element.remove();
    // The element that opened the dialog may have been replaced by one with the same key.
    if (opener !== undefined) document.querySelector(`[data-key="${CSS.escape(opener)}"]`)?.focus();
  } }, form);
  document.body.append(element);
  element.showModal();
  return element;
}

/** Lets the browser save a text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
