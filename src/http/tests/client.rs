//! A client that sends what it is told to, right or wrong.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer, or what came of it.
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    ask(address, request.as_bytes()).await
}

/// Sends these bytes and reads the answer; of a stream only its head.
pub async fn ask(address: SocketAddr, request: &[u8]) -> Answer {
    let mut connection = BufReader::new(TcpStream::connect(address).await.unwrap());
    // A server that refuses what is too large may close before it has read it all.
    let _ = connection.write_all(request).await;
    let (status, headers) = head(&mut connection).await;
    let mut answer = Answer { status, headers, body: String::new() };
    if answer.header("content-type") != Some("text/event-stream") {
        let mut body = Vec::new();
        let _ = connection.read_to_end(&mut body).await;
        answer.body = String::from_utf8(body).unwrap();
    }
    answer
}

async fn head(connection: &mut BufReader<TcpStream>) -> (u16, Vec<(String, String)>) {
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

/// A stream of events.
pub struct Stream(BufReader<TcpStream>);

pub async fn stream(address: SocketAddr, path: &str) -> Stream {
    let mut connection = BufReader::new(TcpStream::connect(address).await.unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let (status, _) = head(&mut connection).await;
    assert_eq!(status, 200);
    Stream(connection)
}

impl Stream {
    /// The next event; `None` where there are no more.
    pub async fn event(&mut self) -> Option<Value> {
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
        tokio::time::timeout(Duration::from_secs(10), next).await.expect("an event, or the end, in time")
    }
}
