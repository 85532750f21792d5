/** The page for operators: `/_limiter/`. */
import { start } from "./app.js";

start();
