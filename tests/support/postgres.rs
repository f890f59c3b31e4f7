//! A private Postgres for the tests of one process: started at the first use, socket only, gone with the process. Tests
//! that take the server away have one of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A server with its data.
pub struct Cluster {
    folder: PathBuf,
    /// A shell that starts and stops the server as it is told, and removes everything when its standard input ends: when
    /// this process does, however it does.
    keeper: Child,
}

/// The URL of an empty database of its own. Fails the test where Postgres is not installed.
pub fn database() -> SecretString {
    CLUSTER.get_or_init(Cluster::started).database()
}

/// Everything in a database, as text.
pub fn dump(url: &str) -> String {
    let output = Command::new(binary("pg_dump")).arg(format!("--dbname={url}")).output().expect("pg_dump");
    assert!(output.status.success(), "pg_dump failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Cluster {
    /// A server that runs.
    pub fn started() -> Cluster {
        let folder = tempfile::Builder::new().prefix("rxpg").tempdir_in("/tmp").expect("a temporary folder").keep();
        let data = folder.join("data");
        let bin = |name: &str| binary(name).display().to_string();
        // The server refuses to run as root.
        let root = std::env::var("USER").is_ok_and(|user| user == "root") || Path::new("/root/.").read_dir().is_ok();
        let user = if root { "setpriv --reuid=postgres --regid=postgres --init-groups" } else { "" };
        if root {
            run(&format!("chown postgres:postgres {}", folder.display()));
        }
        run(&format!(
            "{user} {} -D {} -U postgres -A trust -E UTF8 --locale=C --no-sync >{}/initdb.log 2>&1",
            bin("initdb"),
            data.display(),
            folder.display()
        ));
        let script = format!(
            "trap '' INT TERM HUP; pid=
             while read -r word; do
                 if [ $word = start ]; then
                     {user} {} -D {} -k {2} -c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200 \
                         </dev/null >>{2}/log 2>&1 & pid=$!
                 else
                     kill -QUIT $pid; wait $pid
                 fi
             done
             kill -QUIT $pid; wait $pid; rm -rf {2}",
            bin("postgres"),
            data.display(),
            folder.display(),
        );
        let keeper = Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).spawn().expect("sh");
        let mut cluster = Cluster { folder, keeper };
        cluster.start();
        cluster
    }

    /// Starts the server again and waits until it answers.
    pub fn start(&mut self) {
        self.tell("start");
        for _ in 0..200 {
            if self.try_psql("select 1") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the test's Postgres did not start; see {}/log", self.folder.display());
    }

    /// Stops the server as a crash would: all connections break, nothing is tidied up.
    pub fn crash(&mut self) {
        self.tell("crash");
    }

    fn tell(&mut self, word: &str) {
        let input = self.keeper.stdin.as_mut().expect("the keeper's input");
        writeln!(input, "{word}").expect("the keeper listens");
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> SecretString {
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("create database {name}"));
        SecretString::from(format!("postgres://postgres@localhost/{name}?host={}", self.folder.display()))
    }

    /// Ends every connection to this database but the one that says so.
    pub fn cut_connections(&self) {
        self.try_psql("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'");
    }

    fn psql(&self, statement: &str) {
        assert!(self.try_psql(statement), "psql failed: {statement}");
    }

    fn try_psql(&self, statement: &str) -> bool {
        Command::new(binary("psql"))
            .args(["-h", &self.folder.display().to_string(), "-U", "postgres", "-qc", statement])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn run(command: &str) {
    let status = Command::new("sh").arg("-c").arg(command).status().expect("sh");
    assert!(status.success(), "failed: {command}");
}

fn binary(name: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|dir| dir.path().join("bin").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = debian.chain(std::env::split_paths(&path).map(|dir| dir.join(name))).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed; hint: apt-get install postgresql"))
}
