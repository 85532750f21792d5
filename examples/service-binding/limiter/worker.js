export { default } from "edge-limiter/worker";
