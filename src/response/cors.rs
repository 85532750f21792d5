//! CORS: lets pages of other origins read the limiter's own answers in a browser (Fetch standard, 3.3).

use super::{Response, headers};
use crate::config::{CorsOrigins, Dialect};

impl Response {
    /// Lets the page that sent the request read the answer, if `origins` include the page's origin. `origin` reads the
    /// request's `Origin` header.
    pub(crate) fn allow_cors(
        &mut self,
        origins: &CorsOrigins,
        dialect: Dialect,
        origin: &dyn Fn() -> Option<String>,
    ) {
        let allowed = match origins {
            CorsOrigins::Nobody => return,
            CorsOrigins::Anybody => origin().map(|_| "*".to_owned()),
            CorsOrigins::Listed(list) => {
                self.headers.push(("Vary", "Origin".to_owned()));
                origin().filter(|origin| list.contains(origin))
            }
        };
        let Some(allowed) = allowed else {
            return;
        };
        if allowed != "*" {
            let credentials = ("Access-Control-Allow-Credentials", "true".to_owned());
            self.headers.push(credentials);
        }
        self.headers.extend([
            ("Access-Control-Allow-Origin", allowed),
            (
                "Access-Control-Expose-Headers",
                headers::exposed(dialect).to_owned(),
            ),
        ]);
    }
}
