/** The WebAssembly module for platforms that cannot load `.wasm` files: its bytes are in the JavaScript. */
import bytes from "#bytes";

export default new WebAssembly.Module(bytes);
