//! Serves a simulated tenant until it is stopped, to try a client or an installed daemon by hand:
//!
//! ```text
//! cargo run -p ringcx-simulator --example serve -- 127.0.0.1:8490
//! ```
//!
//! Prints the settings with which ringcx-extractor reads it. The tenant has some history at the
//! start and goes on in real time.

use std::net::SocketAddr;
use std::time::Duration;

use ringcx_model::clock::Clock;
use ringcx_simulator::{Options, Sim, Traffic};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listen = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listen: SocketAddr =
        listen.parse().map_err(|error| format!("{listen:?} is not an address and port: {error}"))?;
    let traffic = Traffic { history: Duration::from_secs(3600), ..Traffic::default() };
    let options = Options { listen, traffic, ..Options::default() };
    let (account, credentials) = (options.accounts[0].clone(), options.credentials.clone());
    let sim = Sim::start(options, Clock::system()).await?;
    let url = sim.base_url();
    println!("[api]\nplatform_url = \"{url}\"\nringcx_url = \"{url}\"\nsummary_url = \"{url}\"\n");
    println!(
        "[auth]\nclient_id = \"{}\"\nclient_secret = \"{}\"\njwt = \"{}\"\n",
        credentials.client_id, credentials.client_secret, credentials.jwt
    );
    println!("[[accounts]]\nrc_account_id = \"{}\"\nsub_account_id = \"{}\"", account.rc, account.sub);
    std::future::pending().await
}
