//! Parses the command line, runs the command, maps its error to an exit status.

fn main() {}
