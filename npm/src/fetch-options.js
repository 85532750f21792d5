/** Options that every call of `fetch` gets. They depend on the platform. */
let common = {};

export function useForFetch(options) {
  common = options;
}

export const fetchOptions = () => common;
