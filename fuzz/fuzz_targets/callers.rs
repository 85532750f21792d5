//! Any text as the header with the caller's address: it identifies one network, in one form of harmless
//! characters, or nobody. The first byte of the input is the length of the IPv6 prefix, the rest is the header's value.

#![no_main]

use std::net::IpAddr;

use edge_limiter::client::{AddressPrefix, Caller, CallerKey, Ipv6Prefix};
use libfuzzer_sys::fuzz_target;

const MAX_HEADER_BYTES: usize = 128;

fuzz_target!(|data: &[u8]| {
    let Some((bits, header)) = data.split_first() else {
        return;
    };
    let Some(prefix) = Ipv6Prefix::new(*bits) else {
        assert!(!(1..=128).contains(bits));
        return;
    };
    let header = String::from_utf8_lossy(header);
    let caller = Caller::identify(Some(&header), prefix);
    key_is_harmless(&caller);
    match caller.address() {
        Some(address) => is_one_network(&header, &caller, address, prefix),
        None => {
            assert!(!caller.may_be_blocked());
            assert_eq!(caller, Caller::identify(None, prefix));
        }
    }
    plain_addresses_are_understood(&header, &caller, prefix);
    supplied_values_are_hashed(&header);
    keys_are_read_back(caller.key());
    if let Some(key) = CallerKey::parse(&header) {
        assert_eq!(key.to_string(), header, "a key has only one spelling");
    }
});

fn key_is_harmless(caller: &Caller) {
    let key = caller.key().to_string();
    let harmless = |byte: u8| b"0123456789abcdef:./".contains(&byte);
    if caller.address().is_none() {
        assert_eq!(key, "unknown");
    } else {
        assert!(key.bytes().all(harmless), "{key}");
        assert!((2..=CallerKey::MAX_BYTES).contains(&key.len()), "{key}");
    }
}

fn is_one_network(header: &str, caller: &Caller, address: IpAddr, prefix: Ipv6Prefix) {
    assert!(header.len() <= MAX_HEADER_BYTES);
    assert!(!header.contains(','), "a list is not an address");
    assert!(
        header
            .trim_ascii()
            .bytes()
            .all(|byte| byte.is_ascii_graphic())
    );

    let key = caller.key().to_string();
    assert_eq!(
        address,
        address.to_canonical(),
        "a mapped address counts as IPv4"
    );
    assert_eq!(AddressPrefix::of(address, prefix).to_string(), key);
    let exact = Caller::identify(Some(&address.to_string()), prefix);
    assert_eq!(
        &exact, caller,
        "the address without padding is the same caller"
    );
    let (network, bits) = match key.split_once('/') {
        Some((network, bits)) => (network, Some(bits.to_owned())),
        None => (key.as_str(), None),
    };
    assert_eq!(Caller::identify(Some(network), prefix).key(), caller.key());
    assert_eq!(
        bits,
        (address.is_ipv6() && prefix.bits() < 128).then(|| prefix.bits().to_string())
    );

    let padded = format!(" {header}\t");
    if padded.len() <= MAX_HEADER_BYTES {
        assert_eq!(&Caller::identify(Some(&padded), prefix), caller);
    }
    for listed in [format!("{header},{header}"), format!("{header} {header}")] {
        assert_eq!(Caller::identify(Some(&listed), prefix).address(), None);
    }
}

fn plain_addresses_are_understood(header: &str, caller: &Caller, prefix: Ipv6Prefix) {
    if header.len() > MAX_HEADER_BYTES {
        assert_eq!(caller.address(), None);
        return;
    }
    let Ok(plain) = header.trim_ascii().parse::<IpAddr>() else {
        return;
    };
    assert_eq!(caller.address(), Some(plain.to_canonical()));
    let with_port = match plain {
        IpAddr::V4(address) => format!("{address}:65535"),
        IpAddr::V6(address) => format!("[{address}]:65535"),
    };
    assert_eq!(&Caller::identify(Some(&with_port), prefix), caller);
}

fn supplied_values_are_hashed(value: &str) {
    let key = CallerKey::header("x-api-key", value);
    keys_are_read_back(key);
    let key = key.to_string();
    let digits = key.strip_prefix("header-").unwrap();
    assert_eq!(digits.len(), 32);
    assert!(
        digits
            .bytes()
            .all(|byte| b"0123456789abcdef".contains(&byte))
    );
}

fn keys_are_read_back(key: CallerKey) {
    assert_eq!(CallerKey::parse(&key.to_string()), Some(key));
}
