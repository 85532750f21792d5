//! The hello-world program of the `worker` crate's template.

use worker::{Context, Env, Request, Response, Result, event};

#[event(fetch)]
async fn main(_request: Request, _env: Env, _context: Context) -> Result<Response> {
    Response::ok("Hello World!")
}
