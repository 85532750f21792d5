/** The module where nothing loads `.wasm` files: its bytes are in the JavaScript. */
import bytes from "#bytes";

export default new WebAssembly.Module(bytes);
