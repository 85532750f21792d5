/** Why a call of the package is refused, with a `code` that programs can rely on and a message that says what to do. */
export class LimiterError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "LimiterError";
    this.code = code;
  }
}
