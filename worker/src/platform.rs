//! The part of the runtime that answers without waiting: clock, log, random numbers, and fields of the request.

use edge_limiter::driver::Platform;
use edge_limiter::effects::LogLevel;
use edge_limiter::headers::METHOD_OVERRIDES;
use edge_limiter::limiter::Location;
use edge_limiter::time::Timestamp;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{console_error, console_log, console_warn};

#[wasm_bindgen(raw_module = "./current.js")]
extern "C" {
    /// The value of a header of the current request, whose task runs.
    fn header(name: &str) -> Option<String>;
    /// The values of all headers with one of these names in any spelling, joined by commas. The names are separated by
    /// commas as well.
    #[wasm_bindgen(js_name = headersLike)]
    fn headers_like(names: &str) -> Option<String>;
    /// The names of all headers, joined by commas.
    #[wasm_bindgen(js_name = headerNames)]
    fn header_names() -> Option<String>;
    /// The country that the request came from. `None` if it is not known.
    fn country() -> Option<String>;
    /// The number of the autonomous system that the request came from. 0 if it is not known.
    fn asn() -> u32;
    /// Whether the request has a body that is not empty.
    #[wasm_bindgen(js_name = hasBody)]
    fn has_body() -> bool;
    /// Keeps the current task running even if its client disconnects.
    fn outlive();
    /// The Cloudflare data centre that received the request.
    #[wasm_bindgen(js_name = dataCenter)]
    fn data_center() -> Option<String>;
}

/// The JavaScript runtime, as a platform of the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runtime;

impl Platform for Runtime {
    /// `Date.now()`, which deployed Workers advance only after I/O.
    fn now(&self) -> Timestamp {
        // The time is in whole milliseconds well below 2^53, so the conversion is exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let ms = js_sys::Date::now() as u64;
        Timestamp::from_millis(ms)
    }

    /// A random number, or 0 if the runtime has none. Its only use is jitter, which is not essential.
    fn random(&self) -> u32 {
        getrandom::u32().unwrap_or_default()
    }

    fn log(&self, level: LogLevel, line: &str) {
        match level {
            LogLevel::Info => console_log!("{line}"),
            LogLevel::Warn => console_warn!("{line}"),
            LogLevel::Error => console_error!("{line}"),
        }
    }

    fn outlive_client(&self) {
        outlive();
    }

    fn header(&self, name: &str) -> Option<String> {
        header(name)
    }

    fn method_overrides(&self) -> Option<String> {
        headers_like(&METHOD_OVERRIDES.join(","))
    }

    fn header_names(&self) -> Option<String> {
        header_names()
    }

    fn location(&self) -> Location {
        Location {
            country: country(),
            asn: Some(asn()).filter(|asn| *asn > 0),
        }
    }

    fn has_body(&self) -> bool {
        has_body()
    }

    fn data_center(&self) -> Option<String> {
        data_center()
    }
}
