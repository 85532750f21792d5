//! `npm run check-config`: reads variables as one JSON object on standard input, and checks them for the host that the
//! argument names (`workers`, `edge` or `node`; `workers` by default). It prints the problems, and without errors also
//! where counts are kept and the policies in force. The exit code is 1 if there are errors, and 2 if the input or the
//! argument is not valid.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::Read;
use std::process::ExitCode;

use edge_limiter::config::{
    Config, HostCapabilities, Server, Severity, StoreConfig, Topology, Vars,
};
use edge_limiter::policy::{KeyBy, Mode, Policy};
use edge_limiter::quota::Algorithm;

fn main() -> ExitCode {
    let mut json = String::new();
    if let Err(error) = std::io::stdin().read_to_string(&mut json) {
        eprintln!("standard input cannot be read: {error}; send it one JSON object of variables");
        return ExitCode::from(2);
    }
    let Ok(vars) = Vars::from_json(&json) else {
        eprintln!("standard input must be one JSON object of variables");
        return ExitCode::from(2);
    };
    let name = std::env::args().nth(1).unwrap_or("workers".to_owned());
    let Some(host) = HostCapabilities::from_name(&name) else {
        eprintln!("there is no host {name}: use workers, edge or node");
        return ExitCode::from(2);
    };
    let compiled = Config::compile_on(&vars, &host);
    for problem in &compiled.problems {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        println!("{severity}: {problem}");
    }
    if compiled.has_errors() {
        println!(
            "\nThe configuration has errors. Correct the variables; each error says what is in force until then."
        );
        return ExitCode::FAILURE;
    }
    let config = &compiled.config;
    println!("counts: {}\n", store_text(&config.store));
    print_policies(config.policies.iter().chain(&config.preflight));
    ExitCode::SUCCESS
}

/// Where counts are kept, as text without a host name or a secret.
fn store_text(store: &StoreConfig) -> String {
    let tcp = match store.server() {
        None => return "in memory".to_owned(),
        Some(Server::Rest { .. }) => return "in Redis, over REST".to_owned(),
        Some(Server::Client { .. }) => return "in Redis, by the application's client".to_owned(),
        Some(Server::Tcp(tcp)) => tcp,
    };
    let transport = if tcp.tls { "TLS" } else { "TCP" };
    match tcp.topology {
        Topology::Single => format!("in Redis, over {transport}"),
        Topology::Sentinel { .. } => format!("in Redis behind Sentinel, over {transport}"),
        Topology::Cluster => format!("in a Redis Cluster, over {transport}"),
    }
}

fn print_policies<'a>(policies: impl Iterator<Item = &'a Policy>) {
    let header = [
        "policy",
        "limit",
        "window",
        "block",
        "algorithm",
        "key",
        "mode",
        "on store failure",
        "lease",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(policies.map(row));
    let widths: Vec<usize> = (0..header.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

/// The cells of a policy's row.
fn row(policy: &Policy) -> [String; 9] {
    let quota = &policy.quota;
    let limit = if quota.algorithm() == Algorithm::TokenBucket && quota.capacity() != quota.limit()
    {
        format!("{} (burst {})", quota.limit(), quota.capacity())
    } else {
        quota.limit().to_string()
    };
    let seconds = |ms: u64| format!("{} s", ms / 1000);
    [
        policy.name.clone(),
        limit,
        seconds(quota.window().get()),
        policy
            .block
            .map_or_else(|| "-".to_owned(), |block| seconds(block.get())),
        quota.algorithm().name().to_owned(),
        match &policy.key {
            KeyBy::Address => match &policy.user {
                Some(quota) => format!("user {}, else ip", quota.limit()),
                None => "ip".to_owned(),
            },
            KeyBy::Network(prefixes) => {
                format!("network /{} /{}", prefixes.ipv4, prefixes.ipv6)
            }
            KeyBy::Global => "global".to_owned(),
            KeyBy::Header(name) => format!("header:{name} + ip"),
        },
        match policy.mode {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
        }
        .to_owned(),
        policy.on_store_failure.name().to_owned(),
        if policy.lease > 1 {
            policy.lease.to_string()
        } else {
            "-".to_owned()
        },
    ]
}
