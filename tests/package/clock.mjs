/** Loaded before a program (`node --import`): a clock that the test moves, by `{ advance: ms }`. It answers `{ now }`. */

const Real = Date;
let ahead = 0;

globalThis.Date = class extends Real {
  constructor(...args) {
    if (args.length === 0) super(Real.now() + ahead);
    else super(...args);
  }

  static now() {
    return Real.now() + ahead;
  }
};

process.on("message", ({ advance }) => {
  if (advance === undefined) return;
  ahead += advance;
  process.send({ now: Date.now() });
});
process.on("disconnect", () => process.exit());
