/** What a Worker in JavaScript costs before it does anything: `rust-hello`, in JavaScript. */
export default {
  fetch() {
    return new Response("Hello World!");
  },
};
