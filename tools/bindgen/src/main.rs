//! Writes the JavaScript that loads a module, as the build of the Worker wants it: a module for a runtime that imports
//! `.wasm` files, that can start the instance anew after a panic. `wasm-bindgen-cli` does the same with options, and
//! compiles a web server for its tests first.

use std::env::args_os;
use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let [_, module, folder] = args_os().collect::<Vec<_>>().try_into().unwrap_or_default();
    if module.is_empty() {
        eprintln!("usage: edge-limiter-bindgen MODULE.wasm FOLDER");
        return ExitCode::from(2);
    }
    let mut bindgen = Bindgen::new();
    let written = bindgen.module(true).and_then(|bindgen| {
        bindgen
            .input_path(module)
            .out_name("index")
            .typescript(false)
            .reset_state_function(true)
            .generate(folder)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
