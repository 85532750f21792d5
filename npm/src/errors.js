/** Why a call of the package is refused, with a `code` that programs can rely on and a message that says what to do. */
export class LimiterError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "LimiterError";
    this.code = code;
  }
}

/** Whether a value is a text that UTF-8 can hold: half of a surrogate pair is none. */
export const isText = (value) => typeof value === "string" && !LONE_SURROGATE.test(value);

const LONE_SURROGATE = /[\ud800-\udfff]/u;
