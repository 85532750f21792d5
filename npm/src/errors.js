/** A refused call of the package: a `code` that programs can rely on, and a message that says what to do. */
export class LimiterError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "LimiterError";
    this.code = code;
  }
}

/** Whether a value is a string that can be encoded in UTF-8. A string with half of a surrogate pair cannot. */
export const isText = (value) => typeof value === "string" && !LONE_SURROGATE.test(value);

const LONE_SURROGATE = /[\ud800-\udfff]/u;
