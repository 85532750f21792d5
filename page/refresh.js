/** Loads a view again and again while its tab is visible. */

export class Refresh {
  #timer;
  #load;
  #everyMs = 0;
  #generation = 0;
  #isPaused = false;
  #lastMs = 0;

  /** @param {() => void} changed is called when `isPaused` has changed or a load has ended */
  constructor(changed) {
    this.changed = changed;
    document.addEventListener("visibilitychange", () => this.#schedule());
  }

  get isPaused() {
    return this.#isPaused;
  }

  /** When the last successful load began, in ms since the epoch; 0 before the first one. */
  get lastMs() {
    return this.#lastMs;
  }

  get everyMs() {
    return this.#everyMs;
  }

  /** Loads at once, and then every `everyMs`. The result of a load that is still under way is ignored. */
  start(load, everyMs) {
    this.stop();
    this.#load = load;
    this.#everyMs = everyMs;
    this.#lastMs = 0;
    return this.now();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#generation += 1;
    this.#load = undefined;
  }

  pause(isPaused) {
    this.#isPaused = isPaused;
    this.#schedule();
    this.changed();
  }

  /** Loads once, even while hidden or paused. `load` gets a function that returns whether its result is still needed. */
  async now() {
    if (!this.#load) return;
    clearTimeout(this.#timer);
    const generation = (this.#generation += 1);
    const isCurrent = () => generation === this.#generation;
    const began = Date.now();
    const succeeded = await this.#load(isCurrent);
    if (!isCurrent()) return;
    if (succeeded) this.#lastMs = began;
    this.changed();
    this.#schedule(this.#everyMs);
  }

  /** Postpones the next load, for example when the limiter asks to wait. */
  after(ms) {
    this.#schedule(ms);
  }

  #schedule(ms) {
    clearTimeout(this.#timer);
    if (!this.#load || this.#isPaused || document.hidden) return;
    const due = ms ?? Math.max(0, this.#lastMs + this.#everyMs - Date.now());
    this.#timer = setTimeout(() => this.now(), due);
  }
}
