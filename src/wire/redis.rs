//! The host's capabilities on their way in, and the way to reach Redis on its way out.

use serde_json::{Value, json};

use crate::config::{
    ApplicationClient, HostCapabilities, Node, Reach, Secret, Server, Tcp, Topology,
};

/// Reads a host's capabilities from numbers.
///
/// - `reach`: 0 for REST alone, 1 for REST and a single server over TCP, 2 for every server.
/// - `client`: 0 if the application has passed no client. Otherwise twice the client's number, which begins at 1, plus 1 if
///   the client is connected to a cluster.
#[must_use]
pub const fn capabilities(has_origin_binding: bool, reach: u32, client: u32) -> HostCapabilities {
    HostCapabilities {
        has_origin_binding,
        reach: match reach {
            0 => Reach::Rest,
            1 => Reach::Sockets,
            _ => Reach::Everything,
        },
        client: match client {
            0 => None,
            client => Some(ApplicationClient {
                number: client / 2,
                is_cluster: client % 2 == 1,
            }),
        },
    }
}

/// Writes how to reach a server, with its secrets, as an object with a `kind`.
///
/// - `rest` has `url` and `token`.
/// - `tcp` has `topology` (`single`, `sentinel` or `cluster`), `nodes` (each with `host` and `port`), `database` and `tls`.
///   If they are set, it has `username`, `password` and `ca`, and for Sentinels `name`, `sentinelUsername` and
///   `sentinelPassword`.
/// - `client` is the application's own client.
#[must_use]
pub fn server(server: &Server) -> Value {
    match server {
        Server::Rest { url, token } => {
            json!({"kind": "rest", "url": url, "token": token.reveal()})
        }
        Server::Client { .. } => json!({"kind": "client"}),
        Server::Tcp(tcp) => of_tcp(tcp),
    }
}

fn of_tcp(tcp: &Tcp) -> Value {
    let node = |node: &Node| json!({"host": node.host, "port": node.port});
    let nodes: Vec<Value> = tcp.nodes.iter().map(node).collect();
    let reveal = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.reveal().to_owned());
    let mut object = json!({
        "kind": "tcp", "topology": "single", "nodes": nodes, "database": tcp.database, "tls": tcp.tls, "ca": tcp.ca,
        "username": tcp.username, "password": reveal(&tcp.password),
    });
    match &tcp.topology {
        Topology::Single => {}
        Topology::Cluster => object["topology"] = "cluster".into(),
        Topology::Sentinel {
            name,
            username,
            password,
        } => {
            object["topology"] = "sentinel".into();
            object["name"] = name.as_str().into();
            object["sentinelUsername"] = username.clone().into();
            object["sentinelPassword"] = reveal(password).into();
        }
    }
    object
}
