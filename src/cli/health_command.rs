//! `health`: checks whether a running daemon is alive, for containers without a shell.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{CommandContext, terminal};
use crate::error::UserError;

/// The time limit of the request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(crate) struct HealthArgs {
    /// URL to request [default: /healthz at http.listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Requests `GET /healthz`; returns exit status 0 if it succeeds.
pub(crate) async fn run(args: HealthArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let url = match args.url {
        Some(url) => url,
        None => match &context.loaded_settings()?.settings.http.listen {
            Some(listen) => format!("http://{}/healthz", connectable_address(listen)),
            None => {
                let what = "http.listen is \"\", so the daemon has no HTTP server";
                let error = UserError::failed(format!("failed to check the daemon: {what}"));
                bail!(error.with_hint("set http.listen, or give --url"))
            }
        },
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(REQUEST_TIMEOUT)
        .build()
        .context("failed to create an HTTP client")?;
    let answer = match client.get(&url).send().await {
        Ok(answer) => answer,
        Err(error) => {
            let error = UserError::failed(format!("failed to reach the daemon at {url}: {}", root_cause(&error)));
            bail!(error.with_hint("check that it is running and that http.listen is its address"))
        }
    };
    if !answer.status().is_success() {
        bail!("the daemon is not healthy: it answered {}", answer.status());
    }
    terminal::print_stdout("ok\n")?;
    Ok(0)
}

/// The root cause; the causes before it only say that a request failed.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer in {} seconds", REQUEST_TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// The address to connect to: an unspecified address becomes loopback. `[::]` includes IPv4, and
/// containers often have no other loopback.
fn connectable_address(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("{}:{}", Ipv4Addr::LOCALHOST, address.port()),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_asked_on_this_machine() {
        assert_eq!(connectable_address("0.0.0.0:8480"), "127.0.0.1:8480");
        assert_eq!(connectable_address("[::]:8480"), "127.0.0.1:8480");
        assert_eq!(connectable_address("192.0.2.7:1"), "192.0.2.7:1");
        assert_eq!(connectable_address("localhost:1"), "localhost:1");
    }
}
