//! A proxy in front of a server, with or without TLS. A test chooses its certificate, and can make it stop forwarding with every
//! connection left open, like a peer that vanished.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Where connections are forwarded to.
#[derive(Clone)]
pub enum Upstream {
    Tcp(String),
    Unix(PathBuf),
}

/// Whether and how TLS starts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    Plain,
    Tls,
    /// The client sends Postgres' SSLRequest first.
    PostgresStartTls,
}

/// The running proxy. It stops when it is dropped.
pub struct TlsProxy {
    pub address: SocketAddr,
    state: Arc<TlsProxyState>,
    _tasks: JoinSet<()>,
}

struct TlsProxyState {
    mode: TlsMode,
    upstream: Upstream,
    certificate: Mutex<Option<Arc<ServerConfig>>>,
    /// How often forwarding was stopped, and whether it is stopped now.
    stopped: watch::Sender<(u64, bool)>,
    /// Whether forwarding stops at the client's next query.
    stop_at_next_query: AtomicBool,
}

/// Postgres' Sync message: a client's ping, which counts as no query.
const POSTGRES_SYNC: &[u8] = b"S\0\0\0\x04";

impl TlsProxy {
    pub async fn start(upstream: Upstream, mode: TlsMode, certificate: Option<Arc<ServerConfig>>) -> TlsProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (certificate, stopped) = (Mutex::new(certificate), watch::Sender::new((0, false)));
        let state = Arc::new(TlsProxyState {
            mode,
            upstream,
            certificate,
            stopped,
            stop_at_next_query: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, state.clone()));
        TlsProxy { address, state, _tasks: tasks }
    }

    /// Changes the certificate for new connections.
    pub fn set_certificate(&self, certificate: Arc<ServerConfig>) {
        *self.state.certificate.lock().expect("a certificate") = Some(certificate);
    }

    /// Stops forwarding at the next query: open and new connections receive nothing more, and none is closed.
    pub async fn stop_forwarding(&self) {
        self.state.stop_at_next_query.store(true, Ordering::Relaxed);
        let mut stopped = self.state.stopped.subscribe();
        stopped.wait_for(|(_, stopped)| *stopped).await.expect("the proxy");
    }

    /// Forwards new connections again. The old ones never receive anything again.
    pub fn resume_forwarding(&self) {
        self.state.stopped.send_modify(|(_, stopped)| *stopped = false);
    }
}

async fn serve(listener: TcpListener, state: Arc<TlsProxyState>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let mut stopped = state.stopped.subscribe();
            let (times, is_stopped) = *stopped.borrow_and_update();
            if is_stopped {
                return std::future::pending().await;
            }
            // Kept alive, with its connections, after forwarding has stopped.
            let mut forwarding = std::pin::pin!(forward_connection(client, &state));
            let lost = async { drop(stopped.wait_for(|now| now.0 > times).await) };
            tokio::select! {
                biased;
                () = lost => {}
                // Either side may close the connection.
                _ = forwarding.as_mut() => return,
            }
            std::future::pending().await
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward_connection(mut client: TcpStream, state: &TlsProxyState) -> std::io::Result<()> {
    if state.mode == TlsMode::Plain {
        return forward(&mut MonitoredClient { client, state }, &state.upstream).await;
    }
    if state.mode == TlsMode::PostgresStartTls {
        // SSLRequest: its length and its code.
        let mut asked = [0; 8];
        client.read_exact(&mut asked).await?;
        assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47], "the client did not ask for TLS");
        client.write_all(b"S").await?;
    }
    let certificate = state.certificate.lock().expect("a certificate").clone().expect("a certificate to show");
    let mut client = TlsAcceptor::from(certificate).accept(client).await?;
    forward(&mut client, &state.upstream).await
}

/// A client connection whose bytes are inspected.
struct MonitoredClient<'a> {
    client: TcpStream,
    state: &'a TlsProxyState,
}

impl AsyncRead for MonitoredClient<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        ready!(Pin::new(&mut self.client).poll_read(cx, into))?;
        let received = into.filled();
        if !received.is_empty()
            && received != POSTGRES_SYNC
            && self.state.stop_at_next_query.swap(false, Ordering::Relaxed)
        {
            self.state.stopped.send_modify(|(times, stopped)| (*times, *stopped) = (*times + 1, true));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MonitoredClient<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.client).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
}

async fn forward(client: &mut (impl AsyncRead + AsyncWrite + Unpin), upstream: &Upstream) -> std::io::Result<()> {
    match upstream {
        Upstream::Tcp(address) => copy_bidirectional(client, &mut TcpStream::connect(address).await?).await?,
        Upstream::Unix(path) => copy_bidirectional(client, &mut UnixStream::connect(path).await?).await?,
    };
    Ok(())
}

/// A certificate authority for tests, and the file with its certificate.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl TestCa {
    pub fn new() -> TestCa {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Unique names: an unknown issuer and a wrong signature are different errors.
        static NEXT_CA: AtomicU32 = AtomicU32::new(1);
        let name = format!("authority {}", NEXT_CA.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("authority.pem"), issuer.pem()).expect("a file");
        TestCa { issuer, folder }
    }

    /// The path of the file that holds its certificate.
    pub fn ca_file(&self) -> String {
        self.folder.path().join("authority.pem").display().to_string()
    }

    /// A valid certificate for this machine.
    pub fn valid_certificate(&self) -> Arc<ServerConfig> {
        self.signed_certificate(&["localhost", "127.0.0.1"], 2500)
    }

    /// A certificate for this machine that expired long ago.
    pub fn expired_certificate(&self) -> Arc<ServerConfig> {
        self.signed_certificate(&["localhost", "127.0.0.1"], 2001)
    }

    /// A certificate for another host.
    pub fn other_host_certificate(&self) -> Arc<ServerConfig> {
        self.signed_certificate(&["elsewhere.test"], 2500)
    }

    fn signed_certificate(&self, names: &[&str], until: i32) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(until, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        ringcx_extractor::ringcx::install_tls();
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).expect("a certificate"))
    }
}
