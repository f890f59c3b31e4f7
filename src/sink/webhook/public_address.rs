//! Allows connections to public addresses only. The check runs after the name was resolved, where
//! the connection is made, so that no name can lead into a private network, now or later.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

const PRIVATE_ADDRESS_HINT: &str =
    "which is not on the public internet; set allow_private = true on the sink if that is intended";

/// A DNS resolver that drops addresses which are not public.
pub(super) struct PublicAddressResolver;

impl Resolve for PublicAddressResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found.iter().copied().filter(|address| is_public(address.ip())).collect();
            if public.is_empty() {
                let why = match found.first() {
                    Some(first) => format!("its host name resolves to {}, {PRIVATE_ADDRESS_HINT}", first.ip()),
                    None => "its host name does not resolve".to_owned(),
                };
                return Err(why.into());
            }
            let addresses: Addrs = Box::new(public.into_iter());
            Ok(addresses)
        })
    }
}

/// Checks an IP address in the URL. Host names are checked when they are resolved.
pub(super) fn check_literal_address(url: &Url) -> Result<(), String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) if !is_public(address) => Err(format!("its url contains {address}, {PRIVATE_ADDRESS_HINT}")),
        _ => Ok(()),
    }
}

/// Whether the URL's host is this machine.
pub(super) fn is_loopback_url(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether an address belongs to the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match (a, b, c) {
        (0 | 10 | 127, ..) => true,
        // Shared address space; includes the metadata service of one cloud.
        (100, 64..=127, _) => true,
        // Link-local; includes the metadata services of other clouds.
        (169, 254, _) => true,
        (172, 16..=31, _) => true,
        (192, 168, _) | (192, 0, 0 | 2) | (192, 88, 99) => true,
        (198, 18 | 19, _) | (198, 51, 100) | (203, 0, 113) => true,
        (224..=255, ..) => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match parts {
        // An IPv4 address in IPv6 form: mapped, translated, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo, and the documentation range.
        [0x2001, 0 | 0xdb8, ..] => false,
        // Only this range is assigned; unique-local, link-local and multicast lie outside.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_public_text(address: &str) -> bool {
        is_public(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_public() {
        for address in
            ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.169.0.1", "2606:4700::1111", "::ffff:8.8.8.8"]
        {
            assert!(is_public_text(address), "{address}");
        }
    }

    #[test]
    fn private_local_and_metadata_addresses_are_not() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "fec0::1",
        ] {
            assert!(!is_public_text(address), "{address}");
        }
    }

    #[test]
    fn an_address_in_the_url_is_checked_however_it_is_written() {
        let check = |url: &str| check_literal_address(&Url::parse(url).unwrap());
        for url in [
            "http://127.0.0.1/x",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::1]:8080/",
            "http://[::ffff:10.0.0.1]/",
        ] {
            assert!(check(url).unwrap_err().contains("allow_private"), "{url}");
        }
        assert!(check("https://example.org/").is_ok() && check("https://1.1.1.1/").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_this_machine_is_refused() {
        let error = PublicAddressResolver.resolve("localhost".parse().unwrap()).await.err().unwrap().to_string();
        assert!(error.contains("allow_private"), "{error}");
    }
}
