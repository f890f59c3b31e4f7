//! An HTTP client that sends raw bytes, valid or not.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A response, as far as it was received.
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl RawResponse {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> RawResponse {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    send_request(address, request.as_bytes()).await
}

/// Sends these bytes and reads the response; of an event stream only the head.
pub(crate) async fn send_request(address: SocketAddr, request: &[u8]) -> RawResponse {
    let mut connection = BufReader::new(TcpStream::connect(address).await.unwrap());
    // A server that refuses an oversized request may close the connection before reading all of it.
    let _ = connection.write_all(request).await;
    let (status, headers) = read_head(&mut connection).await;
    let mut response = RawResponse { status, headers, body: String::new() };
    if response.header("content-type") != Some("text/event-stream") {
        let mut body = Vec::new();
        let _ = connection.read_to_end(&mut body).await;
        response.body = String::from_utf8(body).unwrap();
    }
    response
}

/// Sends a request with these headers, and a form if there is one.
pub(crate) async fn request(address: SocketAddr, path: &str, headers: &[&str], form: Option<&str>) -> RawResponse {
    let method = if form.is_some() { "POST" } else { "GET" };
    let form = form.unwrap_or_default();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if method == "POST" {
        text.push_str(&format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            form.len()
        ));
    }
    headers.iter().for_each(|header| text.push_str(&format!("{header}\r\n")));
    send_request(address, format!("{text}\r\n{form}").as_bytes()).await
}

async fn read_head(connection: &mut BufReader<TcpStream>) -> (u16, Vec<(String, String)>) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
    (status, headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect())
}

/// Reads an event stream.
pub(crate) struct EventReader(BufReader<TcpStream>);

pub(crate) async fn event_stream(address: SocketAddr, path: &str) -> EventReader {
    let mut connection = BufReader::new(TcpStream::connect(address).await.unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let (status, _) = read_head(&mut connection).await;
    assert_eq!(status, 200);
    EventReader(connection)
}

impl EventReader {
    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next_event(&mut self) -> Option<Value> {
        let next = async {
            loop {
                let mut line = String::new();
                if self.0.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return None;
                }
                if let Some(data) = line.strip_prefix("data: ") {
                    return Some(serde_json::from_str(data.trim_end()).unwrap());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("an event, or the end of the stream, in time")
    }
}
