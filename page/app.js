/** The frame of the page: it asks for the token, shows one view at a time and refreshes it. */
import { Failure, call, forgetToken, hasToken, keepToken } from "./api.js";
import { empty, field, h, swap } from "./dom.js";
import { entryOf, time } from "./format.js";
import { here, link, replace } from "./place.js";
import { Refresh } from "./refresh.js";
import { blocks } from "./views/blocks.js";
import { callers } from "./views/callers.js";
import { events } from "./views/events.js";
import { policies } from "./views/policies.js";
import { store } from "./views/store.js";
import { traffic } from "./views/traffic.js";

const VIEWS = [traffic, events, callers, blocks, policies, store];
const HEALTH_TONES = { ok: "good", degraded: "warn", misconfigured: "bad" };
/** How long the result of an action is shown. */
const NOTICE_MS = 8000;

/** Stops the timers and listeners of what is shown now. */
let leave = () => {};

export function start() {
  if (hasToken()) open();
  else logIn();
}

function logIn(message = "") {
  leave();
  const error = h("p", { class: "error", role: "alert" }, message);
  const token = h("input", { type: "password", autocomplete: "current-password", spellcheck: "false", required: true });
  const button = h("button", { type: "submit", class: "primary" }, "Open");
  let timer;
  const wait = (seconds) => {
    clearInterval(timer);
    const until = Date.now() + 1000 * seconds;
    const show = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      button.disabled = left > 0;
      error.textContent = left > 0 ? `Too many wrong tokens came from this address. Try again in ${left} s.` : "";
      if (left <= 0) clearInterval(timer);
    };
    timer = setInterval(show, 1000);
    show();
  };
  const form = h("form", {
    class: "login",
    onsubmit: async (event) => {
      event.preventDefault();
      const value = token.value.trim();
      // A header cannot carry other characters.
      if (!/^[\x21-\x7e]+$/.test(value)) {
        error.textContent = "This token is not accepted.";
        return;
      }
      button.disabled = true;
      error.textContent = "";
      try {
        await call("policies", { as: value });
        keepToken(value);
        open();
      } catch (failure) {
        button.disabled = false;
        if (failure.kind === "wait") wait(failure.seconds);
        else error.textContent = failure.message;
        token.select();
      }
    },
  },
  h("h1", {}, "edge-limiter"), h("p", { class: "hint" }, location.host),
  field("Admin token", token, "ADMIN_TOKEN of this deployment. It is kept until this tab is closed."), error, button);
  leave = () => clearInterval(timer);
  document.title = "edge-limiter";
  document.body.replaceChildren(h("main", { class: "door" }, form));
  token.focus();
}

function open() {
  leave();
  let hasLeft = false;
  /** The policies in force, once they are loaded. */
  let inForce;
  let view, mounted;
  let timer;

  const health = h("a", { class: "health", href: link("store") }, "…");
  const tabs = h("nav", { "aria-label": "Views" });
  const heading = h("h1", {});
  const updated = h("span", { class: "hint" });
  const pause = h("button", { type: "button", onclick: () => refresh.pause(!refresh.isPaused) }, "Pause");
  const refreshNow = h("button", { type: "button", onclick: () => refresh.now() }, "Refresh");
  const notice = h("p", { class: "notice", role: "status" });
  const trouble = h("div", { role: "alert" });
  const scope = h("div", {});
  const root = h("div", { class: "view" });
  document.body.replaceChildren(
    h("header", { class: "top" },
      h("div", { class: "brand" }, h("strong", {}, "edge-limiter"), h("span", { class: "hint" }, location.host), health),
      tabs,
      h("button", { type: "button", class: "quiet", onclick: () => logOut("") }, "Forget token")),
    h("main", {},
      h("div", { class: "title" }, heading, h("div", { class: "row" }, updated, refreshNow, pause)),
      trouble, scope, notice, root));

  const refresh = new Refresh(() => {
    pause.textContent = refresh.isPaused ? "Resume" : "Pause";
    pause.setAttribute("aria-pressed", String(refresh.isPaused));
    const every = refresh.isPaused ? "paused" : `every ${refresh.everyMs / 1000} s`;
    updated.textContent = refresh.lastMs > 0 ? `updated ${time(refresh.lastMs)}, ${every}` : every;
  });

  const logOut = (message) => {
    forgetToken();
    logIn(message);
  };
  const fail = (failure) => {
    // The page may show the login again. A late failure must not disturb it.
    if (hasLeft) return;
    if (failure.kind === "token") {
      logOut("This token is not accepted any more.");
      return;
    }
    if (!(failure instanceof Failure)) console.error(failure);
    for (const waiting of root.querySelectorAll("[aria-busy]")) swap(waiting.parentElement, empty("This could not be loaded."));
    swap(trouble, h("p", { class: "banner bad" }, failure instanceof Failure ? failure.message : "This page failed. Reload it."));
    if (failure.kind === "wait") setTimeout(() => refresh.after(1000 * failure.seconds));
  };

  /** The part of the frame that views use. */
  const app = {
    policies: () => inForce ?? [],
    /** Shows a banner unless the figures are those of a store that isolates share. */
    isShared(isShared, isolate) {
      const which = isolate ? `${isolate}, which answered` : "which answered";
      const note = `Memory mode: there is no shared store. You see the counts of one isolate only, ${which}. Other isolates have their own counts, and a restart forgets them.`;
      swap(scope, !isShared && h("p", { class: "banner" }, note));
    },
    /** Shows the result of an action, and loads the view again. */
    done(text) {
      notice.textContent = text;
      clearTimeout(timer);
      timer = setTimeout(() => (notice.textContent = ""), NOTICE_MS);
      return refresh.now();
    },
    reload: () => refresh.now(),
    /** Makes a listener of an action that can fail. */
    action: (body) => () => body().catch(fail),
  };

  const load = async (isCurrent) => {
    const current = mounted;
    try {
      // Views need the policies to explain events. Without them every denial would seem to be of a removed policy.
      inForce ??= await policiesInForce();
      if (!isCurrent()) return false;
      const [, state] = await Promise.all([current.load(isCurrent), call("health")]);
      if (!isCurrent()) return false;
      const text = `${state.status} · ${state.store === "memory" ? "memory" : "Redis"}`;
      health.textContent = text;
      health.className = `health state ${entryOf(HEALTH_TONES, state.status) ?? ""}`;
      swap(trouble);
      return true;
    } catch (failure) {
      if (isCurrent()) fail(failure);
      return false;
    }
  };

  const show = () => {
    const wanted = VIEWS.find(({ name }) => name === here().view);
    if (!wanted) return replace("traffic");
    if (wanted === view) {
      if (mounted.update?.()) refresh.start(load, view.everyMs);
      return undefined;
    }
    mounted?.unmount?.();
    view = wanted;
    heading.textContent = view.title;
    document.title = `${view.title} · edge-limiter`;
    swap(tabs, h("ul", {}, VIEWS.map(({ name, title }) => h("li", {}, h("a", { href: link(name), "aria-current": name === view.name && "page", "data-key": name }, title)))));
    swap(trouble);
    swap(scope);
    notice.textContent = "";
    root.replaceChildren();
    mounted = view.mount(root, app);
    return refresh.start(load, view.everyMs);
  };

  const redraw = () => mounted?.redraw?.();
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  addEventListener("hashchange", show);
  scheme.addEventListener("change", redraw);
  leave = () => {
    hasLeft = true;
    refresh.stop();
    clearTimeout(timer);
    mounted?.unmount?.();
    removeEventListener("hashchange", show);
    scheme.removeEventListener("change", redraw);
    leave = () => {};
  };

  show();
}

async function policiesInForce() {
  const { policies: list, preflight } = await call("policies");
  return preflight ? [...list, { ...preflight, isPreflight: true }] : list;
}
