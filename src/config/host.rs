//! What the host that runs the limiter can do.

/// What the host can do, as far as the configuration depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCapabilities {
    /// Whether the host has a binding `ORIGIN` to forward to.
    pub has_origin_binding: bool,
    /// Which Redis servers the host can reach.
    pub reach: Reach,
    /// The application's own Redis client. `None` if the application has passed none.
    pub client: Option<ApplicationClient>,
}

/// Which Redis servers a host can reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Servers over REST only, as in Vercel's edge runtime.
    Rest,
    /// Servers over REST, or one server over TCP or TLS, as on Cloudflare Workers.
    #[default]
    Sockets,
    /// Servers over REST, TCP or TLS, also behind Sentinel and in a cluster, as in Node.js, Bun and Deno.
    Everything,
}

/// The application's own Redis client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationClient {
    /// A number that identifies the client, since two clients may be connected to different servers.
    pub number: u32,
    /// Whether the client is connected to a cluster.
    pub is_cluster: bool,
}

impl HostCapabilities {
    /// The capabilities of a host by its name: `workers`, `edge` or `node`. `None` for any other name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let reach = match name {
            "workers" => Reach::Sockets,
            "edge" => Reach::Rest,
            "node" => Reach::Everything,
            _ => return None,
        };
        Some(Self {
            reach,
            ..Self::default()
        })
    }
}
