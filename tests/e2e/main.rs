//! Tests through the binary, against the simulator, in one program: they share one pool of threads and one Postgres, so that
//! none waits for the slowest of another file. Those that need the machine for themselves are programs of their own.

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod cli;
mod dashboard;
mod database_lost;
mod defences;
mod delivery;
mod e2e_pipeline;
mod e2e_process;
mod e2e_troubles;
mod freshness;
mod full_disk;
mod hostile;
mod hostile_receiver;
mod keeping_e2e;
mod names;
mod odd_answers;
mod private;
mod read_only;
mod reading;
mod revisit;
mod secrecy;
mod upgrade;
