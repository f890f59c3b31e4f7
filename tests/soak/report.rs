//! The table over time, and what must have levelled off in it.

use super::gauge::Sample;

/// What grows by design, a few bytes for each thing that is gone or each day that is over: docs/keeping.md, docs/proof.md.
const GROWS: &[&str] = &[
    "tombstone",
    "erased_leaf",
    "erased_record",
    "erased",
    "journal",
    "manifest",
    "announced",
    "backfill",
    "sink_replay",
    "_sqlx_migrations",
];
/// What has a bound that such a month does not reach: 2,000 single reads for each of four accounts, and reservations of the last
/// quarter of an hour, of which there are only as many as the limits allow, here a few a second.
const BOUNDED: &[(&str, i64)] = &[("reading", 8_000), ("reservation", 8_000)];
/// What a segment that is gone may leave behind, in bytes: its tombstone and three leaves of its chain, with their indexes, and its
/// part of the journal.
const LEFT_BEHIND: f64 = 700.0;

/// Prints a figure of the third and of the fourth quarter, and notes whether it went on growing.
fn check(wrong: &mut Vec<String>, what: &str, (third, fourth): (f64, f64), slack: f64) {
    println!("{what:>24}: {third:>10.0} {fourth:>10.0}");
    if fourth > third * 1.15 + slack {
        wrong.push(format!("{what} went from {third:.0} in the third quarter to {fourth:.0} in the fourth"));
    }
}

/// All samples, each with the day of the month on which it was taken.
#[derive(Default)]
pub struct Report {
    samples: Vec<(f64, Sample)>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Report {
    pub fn add(&mut self, day: f64, sample: Sample) {
        if self.samples.is_empty() {
            println!(
                "{:>5} {:>8} {:>6} {:>8} {:>9} {:>9} {:>8} {:>6} {:>9} {:>9} {:>7} {:>8} {:>9}",
                "day",
                "RSS KB",
                "files",
                "threads",
                "db KB",
                "used KB",
                "log KB",
                "conns",
                "segments",
                "artifacts",
                "work",
                "index",
                "tombst."
            );
        }
        let rows = |name: &str| sample.rows.get(name).copied().unwrap_or(0);
        println!(
            "{day:>5.1} {:>8} {:>6} {:>8} {:>9} {:>9} {:>8} {:>6} {:>9} {:>9} {:>7} {:>8} {:>9}",
            sample.memory,
            sample.files,
            sample.threads,
            sample.database,
            sample.used,
            sample.log,
            sample.connections,
            rows("segment"),
            rows("artifact"),
            rows("work"),
            rows("search_text_docsize") + rows("search_block"),
            rows("tombstone"),
        );
        self.samples.push((day, sample));
    }

    /// The median of a figure between two days.
    fn between(&self, from: f64, to: f64, figure: impl Fn(&Sample) -> f64) -> f64 {
        let within = self.samples.iter().filter(|(day, _)| *day >= from && *day < to);
        median(within.map(|(_, sample)| figure(sample)).collect())
    }

    /// Compares the third quarter of the month with the fourth; what went on growing, in words.
    pub fn still_growing(&self) -> Vec<String> {
        let quarters =
            |figure: &dyn Fn(&Sample) -> f64| (self.between(15.0, 22.5, figure), self.between(22.5, 31.0, figure));
        let mut wrong = Vec::new();
        println!("medians of the third and of the fourth quarter");
        check(&mut wrong, "memory, KB", quarters(&|sample| sample.memory as f64), 4096.0);
        check(&mut wrong, "open files", quarters(&|sample| sample.files as f64), 6.0);
        check(&mut wrong, "threads", quarters(&|sample| sample.threads as f64), 2.0);
        check(&mut wrong, "connections", quarters(&|sample| sample.connections as f64), 3.0);
        check(&mut wrong, "write-ahead log, KB", quarters(&|sample| sample.log as f64), 20_000.0);
        let gone = |sample: &Sample| sample.rows.get("tombstone").copied().unwrap_or(0) as f64;
        let (before, after) = quarters(&gone);
        let grown = (after - before) * LEFT_BEHIND / 1024.0;
        let (third, fourth) = quarters(&|sample| sample.used as f64);
        println!(
            "{:>24}: {third:>10.0} {fourth:>10.0}, {:.0} bytes for each of {:.0} segments that went meanwhile",
            "database in use, KB",
            (fourth - third) * 1024.0 / (after - before).max(1.0),
            after - before
        );
        if fourth > third * 1.1 + grown {
            wrong.push(format!(
                "the database went from {third:.0} KB in use to {fourth:.0}, of which {grown:.0} are excused"
            ));
        }
        let names: Vec<String> =
            self.samples.last().map(|(_, last)| last.rows.keys().cloned().collect()).unwrap_or_default();
        for name in names {
            let rows = quarters(&|sample| sample.rows.get(&name).copied().unwrap_or(0) as f64);
            if name == "attempt" {
                // A quicker machine asks more often for what is not there yet; those of what is gone are counted apart.
                println!("{name:>24}: {:>10.0} {:>10.0} as often as was tried", rows.0, rows.1);
            } else if GROWS.contains(&name.as_str()) {
                println!("{name:>24}: {:>10.0} {:>10.0} by design", rows.0, rows.1);
            } else if let Some((_, most)) = BOUNDED.iter().find(|(bounded, _)| *bounded == name) {
                println!("{name:>24}: {:>10.0} {:>10.0} of {most} at the most", rows.0, rows.1);
                if rows.1 > *most as f64 {
                    wrong.push(format!("{name} has {:.0} rows, of {most} at the most", rows.1));
                }
            } else {
                check(&mut wrong, &name, rows, 60.0);
            }
        }
        wrong
    }
}
