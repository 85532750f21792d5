/** What all calls of `fetch` are made with, by platform. */
let common = {};

export function useForFetch(options) {
  common = options;
}

export const fetchOptions = () => common;
