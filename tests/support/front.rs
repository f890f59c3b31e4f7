//! Stands before a server, with TLS or without: shows whatever certificate a test wants shown, and falls silent as a peer
//! does that is gone without a word, with every connection left open.

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

/// Where what comes in goes on to.
#[derive(Clone)]
pub enum Behind {
    Tcp(String),
    Unix(PathBuf),
}

/// How TLS begins, if it does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Plain,
    Tls,
    /// The client asks for it first, as Postgres' clients do.
    PostgresTls,
}

/// The front, for as long as it is held.
pub struct Front {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    way: Way,
    behind: Behind,
    shown: Mutex<Option<Arc<ServerConfig>>>,
    /// How often it has fallen silent, and whether it is.
    silent: watch::Sender<(u64, bool)>,
    /// Whether it falls silent when next it is asked something.
    armed: AtomicBool,
}

/// How a client of Postgres asks whether anybody is there, and no more.
const PING: &[u8] = b"S\0\0\0\x04";

impl Front {
    pub async fn before(behind: Behind, way: Way, shows: Option<Arc<ServerConfig>>) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (shown, silent) = (Mutex::new(shows), watch::Sender::new((0, false)));
        let shared = Arc::new(Shared { way, behind, shown, silent, armed: AtomicBool::new(false) });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, shared.clone()));
        Front { address, shared, _tasks: tasks }
    }

    /// Shows this certificate from now on, to new connections.
    pub fn shows(&self, certificate: Arc<ServerConfig>) {
        *self.shared.shown.lock().expect("a certificate") = Some(certificate);
    }

    /// From the next question on, which is not answered, nothing is heard on any connection, those that are open and those
    /// to come; none is closed.
    pub async fn fall_silent(&self) {
        self.shared.armed.store(true, Ordering::Relaxed);
        let mut silent = self.shared.silent.subscribe();
        silent.wait_for(|(_, silent)| *silent).await.expect("it is there");
    }

    /// New connections are served again; nothing is ever heard again on the old ones.
    pub fn speak(&self) {
        self.shared.silent.send_modify(|(_, silent)| *silent = false);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let mut silent = shared.silent.subscribe();
            let (times, mute) = *silent.borrow_and_update();
            if mute {
                return std::future::pending().await;
            }
            // Kept, with its connections, also when it is not carried on.
            let mut carried = std::pin::pin!(carry(client, &shared));
            let lost = async { drop(silent.wait_for(|now| now.0 > times).await) };
            tokio::select! {
                biased;
                () = lost => {}
                // That either side hangs up is its good right.
                _ = carried.as_mut() => return,
            }
            std::future::pending().await
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    if shared.way == Way::Plain {
        return pass_on(&mut Heard { client, shared }, &shared.behind).await;
    }
    if shared.way == Way::PostgresTls {
        // SSLRequest: its length, and a number of its own.
        let mut asked = [0; 8];
        client.read_exact(&mut asked).await?;
        assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47], "the client did not ask for TLS");
        client.write_all(b"S").await?;
    }
    let shown = shared.shown.lock().expect("a certificate").clone().expect("a certificate to show");
    let mut client = TlsAcceptor::from(shown).accept(client).await?;
    pass_on(&mut client, &shared.behind).await
}

/// A client that is listened to.
struct Heard<'a> {
    client: TcpStream,
    shared: &'a Shared,
}

impl AsyncRead for Heard<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        ready!(Pin::new(&mut self.client).poll_read(cx, into))?;
        let said = into.filled();
        if !said.is_empty() && said != PING && self.shared.armed.swap(false, Ordering::Relaxed) {
            self.shared.silent.send_modify(|(times, silent)| (*times, *silent) = (*times + 1, true));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard<'_> {
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

async fn pass_on(client: &mut (impl AsyncRead + AsyncWrite + Unpin), behind: &Behind) -> std::io::Result<()> {
    match behind {
        Behind::Tcp(address) => copy_bidirectional(client, &mut TcpStream::connect(address).await?).await?,
        Behind::Unix(path) => copy_bidirectional(client, &mut UnixStream::connect(path).await?).await?,
    };
    Ok(())
}

/// An authority of the test's own, and the file that says whom to trust.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each of a name of its own: whom one does not know is another matter than whose signature is wrong.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("authority.pem"), issuer.pem()).expect("a file");
        Authority { issuer, folder }
    }

    /// The file that holds its certificate.
    pub fn file(&self) -> String {
        self.folder.path().join("authority.pem").display().to_string()
    }

    /// A good certificate for this machine.
    pub fn good(&self) -> Arc<ServerConfig> {
        self.signed(&["localhost", "127.0.0.1"], 2500)
    }

    /// One that ran out long ago.
    pub fn expired(&self) -> Arc<ServerConfig> {
        self.signed(&["localhost", "127.0.0.1"], 2001)
    }

    /// One for somebody else.
    pub fn of_another(&self) -> Arc<ServerConfig> {
        self.signed(&["elsewhere.test"], 2500)
    }

    fn signed(&self, names: &[&str], until: i32) -> Arc<ServerConfig> {
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
