/** Elements and their texts. Everything that is shown goes through here, as text: nothing that an attacker sent becomes markup. */

/**
 * Makes an element. A child is a node, a text or a number; `null`, `undefined` and `false` are left out.
 *
 * @param {string} name
 * @param {Record<string, unknown>} [attributes] a function is a listener (`onclick`), `style` an object of properties, `true` an
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
 * Replaces what is in `region`. The element with the focus keeps it, and details stay open, if there is one with the same
 * `data-key` afterwards.
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

/** A label and its control, which it names. */
export function field(label, control, hint) {
  control.id ||= `field-${(ids += 1)}`;
  const described = hint && h("span", { class: "hint", id: `${control.id}-hint` }, hint);
  if (described) control.setAttribute("aria-describedby", described.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, described);
}

/**
 * A table that scrolls sideways in itself where it is too wide.
 *
 * @param {string} caption what it lists
 * @param {{title: string, number?: boolean, hidden?: boolean}[]} columns `hidden`: the title is for screen readers alone
 * @param {unknown[][]} rows a cell is what `h` takes as a child
 * @param {string} [style] `narrow`: no wider than it has to be
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

/** A part of a view under a heading; `aside` stands next to that. */
export function panel(title, body, { aside, note } = {}) {
  return h("section", { class: "panel" }, h("header", {}, h("h2", {}, title), aside), note && h("p", { class: "hint" }, note), body);
}

/** In place of a list without entries. */
export const empty = (text) => h("p", { class: "empty" }, text);

/** In place of what has not come yet. */
export const loading = () => h("p", { class: "empty", "aria-busy": "true" }, "Loading…");

/**
 * One of several, as buttons.
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

/** A `select` of values and texts. */
export function select(choices, chosen, onchange) {
  const element = h("select", { onchange: () => onchange?.(element.value) }, choices.map(([value, text]) => h("option", { value }, text)));
  element.value = chosen;
  return element;
}

/**
 * Opens a dialog with a form; what `submit` returns closes it, and what it throws is shown in it.
 *
 * @param {string} title
 * @param {{body?: unknown, action: string, danger?: boolean, submit: () => Promise<void>}} options
 */
export function dialog(title, { body, action, danger, submit }) {
  const opener = document.activeElement?.dataset?.key;
  const error = h("p", { class: "error", role: "alert" });
  const go = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const form = h(
    "form", {
      onsubmit: async (event) => {
        event.preventDefault();
        go.disabled = true;
        try {
          await submit();
          element.close();
        } catch (failure) {
          error.textContent = failure.message;
        } finally {
          go.disabled = false;
        }
      },
    },
    h("h2", { id: "dialog-title" }, title), body, error,
    h("div", { class: "actions" }, go, h("button", { type: "button", onclick: () => element.close() }, "Cancel")),
  );
  const element = h("dialog", { "aria-labelledby": "dialog-title", onclose: () => {
    element.remove();
    // What opened it may have been drawn anew meanwhile.
    if (opener !== undefined) document.querySelector(`[data-key="${CSS.escape(opener)}"]`)?.focus();
  } }, form);
  document.body.append(element);
  element.showModal();
  return element;
}

/** Hands a text to the browser as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
