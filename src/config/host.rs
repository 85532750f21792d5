//! What the host that runs the limiter brings.

/// What the host can do, as far as the configuration depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCapabilities {
    /// Whether it has a binding `ORIGIN` to forward to.
    pub has_origin_binding: bool,
    /// Which servers it reaches.
    pub reach: Reach,
    /// The application's own Redis client, if it has passed one.
    pub client: Option<ApplicationClient>,
}

/// Which Redis servers a host reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Over REST alone: Vercel's edge runtime.
    Rest,
    /// Over REST, and one server over TCP or TLS: Cloudflare Workers.
    #[default]
    Sockets,
    /// Over REST and TCP, behind Sentinel and in a cluster: Node.js, Bun, Deno.
    Everything,
}

/// The application's own Redis client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationClient {
    /// Which one: two clients may be connected to different servers.
    pub number: u32,
    /// Whether it is connected to a cluster.
    pub is_cluster: bool,
}

impl HostCapabilities {
    /// A host by its name: `workers`, `edge` or `node`.
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
