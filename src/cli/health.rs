//! `health`: asks a running daemon whether it is alive; for containers without a shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::Context;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Options of `health`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask here instead of at http.listen
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Exit status 0 while `GET /healthz` answers.
///
/// # Errors
/// Where it does not, or the settings turn it off.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let url = match args.url {
        Some(url) => url,
        None => match &context.loaded()?.settings.http.listen {
            Some(listen) => format!("http://{}/healthz", reachable(listen)),
            None => bail!(
                "failed to ask the daemon: http.listen is \"\", so it answers nobody\nhint: set http.listen, or give --url"
            ),
        },
    };
    let client =
        reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().context("failed to set up a client")?;
    let answer = match client.get(&url).send().await {
        Ok(answer) => answer,
        Err(error) => bail!(
            "failed to reach the daemon at {url}: {}\nhint: is it running, and is http.listen its address?",
            root(&error)
        ),
    };
    if !answer.status().is_success() {
        bail!("the daemon is not healthy: it answered {}", answer.status());
    }
    println!("ok");
    Ok(0)
}

/// What it came of in the end: what lies between says only that a request failed.
fn root(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer in {} seconds", PATIENCE.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An address that can be connected to: "any" stands for this machine.
fn reachable(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let ip: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            SocketAddr::new(ip, address.port()).to_string()
        }
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_asked_on_this_machine() {
        assert_eq!(reachable("0.0.0.0:8480"), "127.0.0.1:8480");
        assert_eq!(reachable("[::]:8480"), "[::1]:8480");
        assert_eq!(reachable("192.0.2.7:1"), "192.0.2.7:1");
        assert_eq!(reachable("localhost:1"), "localhost:1");
    }
}
