//! Which Redis a host reaches, on its way in, and how it is to reach it, on its way out.

use serde_json::{Value, json};

use crate::config::{
    ApplicationClient, HostCapabilities, Node, Reach, Secret, Server, Tcp, Topology,
};

/// A host by its numbers. `reach`: 0 over REST alone, 1 over REST and one server over TCP, 2 every server. `client`: 0 where
/// the application has passed no client, else twice the client's number, from 1 on, and 1 more if it is connected to a cluster.
#[must_use]
pub const fn host(has_origin_binding: bool, reach: u32, client: u32) -> HostCapabilities {
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

/// How a server is reached, secrets included: an object with a `kind`.
///
/// - `rest`: `url`, `token`;
/// - `tcp`: `topology` (`single`, `sentinel`, `cluster`), `nodes` (of each `host` and `port`), `database`, `tls`, and where they are
///   set `username`, `password`, `ca` and, of the Sentinels, `name`, `sentinelUsername`, `sentinelPassword`;
/// - `client`: the application's own.
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
