/** Loaded before a program (`node --import`) so that a test can move its clock. The message `{ advance: ms }` is answered with `{ now }`. */

const RealDate = Date;
let aheadMs = 0;

globalThis.Date = class extends RealDate {
  constructor(...args) {
    if (args.length === 0) super(RealDate.now() + aheadMs);
    else super(...args);
  }

  static now() {
    return RealDate.now() + aheadMs;
  }
};

process.on("message", ({ advance }) => {
  if (advance === undefined) return;
  aheadMs += advance;
  process.send({ now: Date.now() });
});
process.on("disconnect", () => process.exit());
