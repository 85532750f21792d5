//! Laws of the caller's identity, and a table of header values that try to break them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{AddressPrefix, Caller, CallerKey, Ipv6Prefix, parse_address};

fn key(header: &str) -> String {
    Caller::identify(Some(header), Ipv6Prefix::default())
        .key()
        .to_string()
}

fn network(ip: IpAddr, prefix: Ipv6Prefix) -> String {
    AddressPrefix::of(ip, prefix).to_string()
}

#[test]
fn a_header_identifies_one_network_or_nobody() {
    let table = [
        // Plain, and with everything that may surround an address.
        ("192.0.2.1", "192.0.2.1"),
        ("  192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("255.255.255.255:65535", "255.255.255.255"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("2001:0DB8:0000:0001::0001", "2001:db8:0:1::/64"),
        ("[2001:db8:0:1::1]", "2001:db8:0:1::/64"),
        ("[2001:db8:0:1::1]:443", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("[fe80::1%25eth0]:443", "fe80::/64"),
        // Without brackets the last group is part of the address.
        ("2001:db8:0:1::1:443", "2001:db8:0:1::/64"),
        ("::", "::/64"),
        // IPv4 inside IPv6: only the mapped form is IPv4.
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("0:0:0:0:0:FFFF:C000:0201", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("::ffff:192.0.2.1%eth0", "192.0.2.1"),
        ("::ffff:0:192.0.2.1", "::/64"),
        ("::192.0.2.1", "::/64"),
        ("2001:db8::192.0.2.1", "2001:db8::/64"),
        ("2002:c000:201::1", "2002:c000:201::/64"),
        ("64:ff9b::192.0.2.1", "64:ff9b::/64"),
        // Not one address.
        ("", "unknown"),
        ("   ", "unknown"),
        ("unknown", "unknown"),
        ("_hidden", "unknown"),
        ("localhost", "unknown"),
        ("192.0.2.1, 198.51.100.2", "unknown"),
        ("192.0.2.1,198.51.100.2", "unknown"),
        ("192.0.2.1 198.51.100.2", "unknown"),
        ("2001:db8::1, 2001:db8::2", "unknown"),
        ("fe80::1%eth0, 192.0.2.1", "unknown"),
        ("for=192.0.2.1", "unknown"),
        ("\"192.0.2.1\"", "unknown"),
        ("192.0.2.1\n192.0.2.2", "unknown"),
        ("192.0.2.1\0", "unknown"),
        ("\u{a0}192.0.2.1", "unknown"),
        ("192.0.2.1/32", "unknown"),
        ("2001:db8::/64", "unknown"),
        // IPv4 that parsers disagree on.
        ("01.02.03.04", "unknown"),
        ("192.0.2.010", "unknown"),
        ("1.2.3", "unknown"),
        ("0x7f.1", "unknown"),
        ("3221225985", "unknown"),
        ("256.0.0.1", "unknown"),
        ("1.2.3.4.5", "unknown"),
        ("-1.2.3.4", "unknown"),
        ("192.0.2.\u{661}", "unknown"),
        // Invalid ports.
        ("192.0.2.1:", "unknown"),
        ("192.0.2.1:99999", "unknown"),
        ("192.0.2.1:+80", "unknown"),
        ("192.0.2.1:http", "unknown"),
        ("192.0.2.1:000080", "unknown"),
        ("[2001:db8::1]:", "unknown"),
        ("[2001:db8::1]443", "unknown"),
        ("[2001:db8::1]:65536", "unknown"),
        // Brackets and zones where they do not belong.
        ("[192.0.2.1]", "unknown"),
        ("[192.0.2.1]:80", "unknown"),
        ("192.0.2.1%eth0", "unknown"),
        ("[2001:db8::1", "unknown"),
        ("2001:db8::1]", "unknown"),
        ("[[2001:db8::1]]", "unknown"),
        ("[]", "unknown"),
        ("fe80::1%", "unknown"),
        ("fe80::1%a%b", "unknown"),
        // Invalid IPv6.
        (":", "unknown"),
        (":::", "unknown"),
        ("1:2:3:4:5:6:7:8:9", "unknown"),
        ("2001:db8::1::2", "unknown"),
        ("12345::", "unknown"),
        ("2001:db8::192.0.2.256", "unknown"),
        ("*", "unknown"),
    ];
    for (header, expected) in table {
        assert_eq!(key(header), expected, "{header:?}");
    }
}

#[test]
fn a_value_that_is_too_long_identifies_nobody_even_if_it_contains_an_address() {
    assert_eq!(key(&format!("{}192.0.2.1", " ".repeat(10_000))), "unknown");
    assert_eq!(key(&"1".repeat(10_000)), "unknown");
    assert_eq!(key(&format!("fe80::1%{}", "z".repeat(10_000))), "unknown");
}

#[test]
fn a_value_of_128_bytes_is_accepted_and_one_of_129_is_rejected() {
    assert_eq!(key(&format!("{:>128}", "192.0.2.1")), "192.0.2.1");
    assert_eq!(key(&format!("{:>129}", "192.0.2.1")), "unknown");
}

#[test]
fn a_caller_without_a_header_is_unidentified_and_never_blocked() {
    let nobody = Caller::identify(None, Ipv6Prefix::default());
    assert_eq!(
        nobody,
        Caller::identify(Some("garbage"), Ipv6Prefix::default())
    );
    assert_eq!(nobody.key(), CallerKey::Unidentified);
    assert_eq!(nobody.address(), None);
    assert!(!nobody.may_be_blocked());
}

#[test]
fn workers_of_other_zones_are_counted_but_never_blocked() {
    for header in ["2a06:98c0:3600::103", "[2A06:98C0:3600:0:0:0:0:103]:443"] {
        for bits in [1, 64, 128] {
            let caller = Caller::identify(Some(header), Ipv6Prefix::new(bits).unwrap());
            assert!(!caller.may_be_blocked());
            assert_ne!(caller.key(), CallerKey::Unidentified);
        }
    }
    for header in ["2a06:98c0:3600::104", "192.0.2.1", "::"] {
        assert!(Caller::identify(Some(header), Ipv6Prefix::default()).may_be_blocked());
    }
}

#[test]
fn two_addresses_share_a_key_only_within_one_prefix() {
    assert_eq!(
        key("2001:db8:0:1::1"),
        key("2001:db8:0:1:ffff:ffff:ffff:ffff")
    );
    assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
}

#[test]
fn a_caller_keeps_its_exact_address_for_the_origin() {
    let caller = Caller::identify(Some("[2001:db8::1]:443"), Ipv6Prefix::default());
    assert_eq!(
        caller.address().map(|ip| ip.to_string()).as_deref(),
        Some("2001:db8::1")
    );
}

#[test]
fn a_prefix_has_1_to_128_bits_and_128_is_written_without_a_length() {
    assert_eq!(Ipv6Prefix::new(0), None);
    assert_eq!(Ipv6Prefix::new(129), None);
    assert_eq!(Ipv6Prefix::new(64), Some(Ipv6Prefix::default()));
    let ip: IpAddr = "ffff:db8::1".parse().unwrap();
    let network = |bits| network(ip, Ipv6Prefix::new(bits).unwrap());
    assert_eq!(network(1), "8000::/1");
    assert_eq!(network(56), "ffff:db8::/56");
    assert_eq!(network(127), "ffff:db8::/127");
    assert_eq!(network(128), "ffff:db8::1");
}

/// Strings of characters that occur in addresses. They reach further into the parser than arbitrary
/// strings do.
fn address_like() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9a-fA-F:.%\\[\\]/ ,*x]{0,48}",
        any::<u128>().prop_map(v6),
        any::<u32>().prop_map(v4)
    ]
}

fn v6(bits: u128) -> String {
    Ipv6Addr::from_bits(bits).to_string()
}

fn v4(bits: u32) -> String {
    Ipv4Addr::from_bits(bits).to_string()
}

fn prefix() -> impl Strategy<Value = Ipv6Prefix> {
    (1..=128_u8).prop_map(|bits| Ipv6Prefix::new(bits).unwrap())
}

proptest! {
    #[test]
    fn every_key_is_short_and_has_only_harmless_characters(header in address_like(), prefix in prefix()) {
        let caller = Caller::identify(Some(&header), prefix);
        let key = caller.key().to_string();
        let harmless = key.bytes().all(|byte| b"0123456789abcdef:./".contains(&byte));
        prop_assert!(harmless || key == "unknown");
        prop_assert!(key.len() <= CallerKey::MAX_BYTES);
    }

    #[test]
    fn the_canonical_form_is_idempotent(header in address_like(), prefix in prefix()) {
        if let Some(ip) = parse_address(&header) {
            let canonical = network(ip, prefix);
            let printed = canonical.split('/').next().unwrap();
            prop_assert_eq!(network(parse_address(printed).unwrap(), prefix), canonical);
            prop_assert_eq!(parse_address(&ip.to_string()), Some(ip));
        }
    }

    #[test]
    fn a_mapped_ipv4_address_is_ipv4_in_every_spelling(bits: u32, prefix in prefix()) {
        let plain = v4(bits);
        let (high, low) = (bits >> 16, bits & 0xffff);
        for mapped in [format!("::ffff:{plain}"), format!("[::FFFF:{high:x}:{low:04x}]:80")] {
            let caller = Caller::identify(Some(&mapped), prefix);
            prop_assert_eq!(caller.key().to_string(), plain.as_str());
            prop_assert_eq!(caller.address(), Some(IpAddr::V4(Ipv4Addr::from_bits(bits))));
        }
        let wrapped = IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped());
        prop_assert_eq!(network(wrapped, prefix), plain);
    }

    #[test]
    fn addresses_share_a_key_exactly_when_their_first_bits_agree(a: u128, b: u128, same in 0..=128_u32, prefix in prefix()) {
        // Make b agree with a in the first `same` bits. Otherwise the test would never see a collision.
        let high = u128::MAX.checked_shl(128 - same).unwrap_or(0);
        let b = (a & high) | (b & !high);
        let [x, y] = [a, b].map(|bits| network(IpAddr::V6(Ipv6Addr::from_bits(bits)), prefix));
        let agree = (a ^ b) >> (128 - u32::from(prefix.bits())) == 0;
        let is_mapped = |bits| Ipv6Addr::from_bits(bits).to_ipv4_mapped().is_some();
        prop_assume!(!is_mapped(a) && !is_mapped(b));
        prop_assert_eq!(x == y, agree);
    }
}
