//! A private Postgres server for the tests of one process. It starts at the first use, listens on a socket only, and ends with
//! the process. Tests that stop the server start their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;

static CLUSTER: OnceLock<PostgresCluster> = OnceLock::new();
static NEXT_DATABASE: AtomicU32 = AtomicU32::new(0);

/// A Postgres server and its data folder.
pub struct PostgresCluster {
    folder: PathBuf,
    /// A shell that starts and stops the server on command. It removes everything when its standard input ends, which happens
    /// however this process ends.
    supervisor: Child,
}

/// Creates an empty database on the shared server and returns its URL. Panics if Postgres is not installed.
pub fn create_database() -> SecretString {
    CLUSTER.get_or_init(PostgresCluster::start_new).create_database()
}

/// Dumps a database as text.
pub fn dump_database(url: &str) -> String {
    let output = Command::new(program_path("pg_dump")).arg(format!("--dbname={url}")).output().expect("pg_dump");
    assert!(output.status.success(), "pg_dump failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Replaces the content of a database by a dump.
pub fn restore_database(url: &str, dump: &str) {
    let mut psql = Command::new(program_path("psql"));
    psql.args(["-q", "-v", "ON_ERROR_STOP=1", &format!("--dbname={url}")]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = psql.spawn().expect("psql");
    let mut input = child.stdin.take().expect("its input");
    write!(input, "set client_min_messages = warning; drop schema public cascade; create schema public;\n{dump}")
        .expect("psql reads");
    drop(input);
    assert!(child.wait().expect("psql").success(), "psql failed");
}

impl PostgresCluster {
    /// Creates a data folder and starts a server on it.
    pub fn start_new() -> PostgresCluster {
        let folder = tempfile::Builder::new().prefix("rxpg").tempdir_in("/tmp").expect("a temporary folder").keep();
        let data = folder.join("data");
        let program = |name: &str| program_path(name).display().to_string();
        // The server refuses to run as root.
        let root = std::env::var("USER").is_ok_and(|user| user == "root") || Path::new("/root/.").read_dir().is_ok();
        let user = if root { "setpriv --reuid=postgres --regid=postgres --init-groups" } else { "" };
        if root {
            run_shell(&format!("chown postgres:postgres {}", folder.display()));
        }
        run_shell(&format!(
            "{user} {} -D {} -U postgres -A trust -E UTF8 --locale=C --no-sync >{}/initdb.log 2>&1",
            program("initdb"),
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
            program("postgres"),
            data.display(),
            folder.display(),
        );
        let supervisor = Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).spawn().expect("sh");
        let mut cluster = PostgresCluster { folder, supervisor };
        cluster.start();
        cluster
    }

    /// Starts the server again and waits until it answers.
    pub fn start(&mut self) {
        self.send_command("start");
        for _ in 0..200 {
            if self.try_psql("select 1") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the test's Postgres did not start; see {}/log", self.folder.display());
    }

    /// Stops the server as a crash would: all connections break, and nothing is cleaned up.
    pub fn crash(&mut self) {
        self.send_command("crash");
    }

    fn send_command(&mut self, command: &str) {
        let input = self.supervisor.stdin.as_mut().expect("the supervisor's input");
        writeln!(input, "{command}").expect("the supervisor listens");
    }

    /// Creates an empty database and returns its URL.
    pub fn create_database(&self) -> SecretString {
        let name = format!("t{}", NEXT_DATABASE.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("create database {name}"));
        SecretString::from(format!("postgres://postgres@localhost/{name}?host={}", self.folder.display()))
    }

    /// Terminates every client connection except its own.
    pub fn terminate_connections(&self) {
        self.try_psql("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'");
    }

    fn psql(&self, statement: &str) {
        assert!(self.try_psql(statement), "psql failed: {statement}");
    }

    fn try_psql(&self, statement: &str) -> bool {
        Command::new(program_path("psql"))
            .args(["-h", &self.folder.display().to_string(), "-U", "postgres", "-qc", statement])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for PostgresCluster {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

fn run_shell(command: &str) {
    let status = Command::new("sh").arg("-c").arg(command).status().expect("sh");
    assert!(status.success(), "failed: {command}");
}

fn program_path(name: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|dir| dir.path().join("bin").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = debian.chain(std::env::split_paths(&path).map(|dir| dir.join(name))).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed; hint: apt-get install postgresql"))
}
