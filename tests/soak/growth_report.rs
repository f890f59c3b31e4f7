//! Prints the samples over time, and finds the figures that keep growing.

use super::resource_sample::ResourceSample;

/// Tables that grow by design, a few bytes for each erased segment or each day (docs/keeping.md, docs/proof.md). Rows of
/// `export_erasure` are deleted after 90 days.
const TABLES_GROWING_BY_DESIGN: &[&str] = &[
    "tombstone",
    "erased_leaf",
    "erased_record",
    "erased",
    "export_erasure",
    "feed_notice",
    "journal",
    "manifest",
    "announced",
    "backfill",
    "sink_replay",
    "_sqlx_migrations",
];
/// Tables with a row limit that such a month does not reach: 2,000 reads for each of four accounts, and the reservations of the
/// last quarter of an hour, of which the limits here allow a few a second.
const TABLE_ROW_LIMITS: &[(&str, i64)] = &[("reading", 8_000), ("reservation", 8_000)];
/// Bytes that an erased segment may leave: its tombstone, the leaves of its chains, what tells sinks and exports of the erasure,
/// with their indexes, and its share of the journal. A row of Postgres is twice as large.
const BYTES_LEFT_PER_ERASED_SEGMENT: f64 = 700.0;
const BYTES_LEFT_PER_ERASED_SEGMENT_ON_POSTGRES: f64 = 1_600.0;

/// Of the sixty samples of a month, a few fail while the database is away.
const MIN_SAMPLES: usize = 40;

/// Prints a figure of the third and the fourth quarter, and records it if it keeps growing.
fn check_growth(growing: &mut Vec<String>, what: &str, (third, fourth): (f64, f64), slack: f64) {
    println!("{what:>24}: {third:>10.0} {fourth:>10.0}");
    if fourth > third * 1.15 + slack {
        growing.push(format!("{what} went from {third:.0} in the third quarter to {fourth:.0} in the fourth"));
    }
}

/// All samples, each with the day of the month at which it was taken.
#[derive(Default)]
pub struct GrowthReport {
    samples: Vec<(f64, ResourceSample)>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl GrowthReport {
    pub fn add(&mut self, day: f64, sample: ResourceSample) {
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
            sample.memory_kb,
            sample.open_files,
            sample.threads,
            sample.database_kb,
            sample.used_kb,
            sample.log_kb,
            sample.connections,
            rows("segment"),
            rows("artifact"),
            rows("work"),
            rows("search_posting"),
            rows("tombstone"),
        );
        self.samples.push((day, sample));
    }

    /// The median of a figure between two days.
    fn median_between(&self, from: f64, to: f64, figure: impl Fn(&ResourceSample) -> f64) -> f64 {
        let within = self.samples.iter().filter(|(day, _)| *day >= from && *day < to);
        median(within.map(|(_, sample)| figure(sample)).collect())
    }

    /// Compares the third quarter of the month with the fourth; returns a description of each figure that keeps growing.
    pub fn growing_figures(&self) -> Vec<String> {
        let quarters = |figure: &dyn Fn(&ResourceSample) -> f64| {
            (self.median_between(15.0, 22.5, figure), self.median_between(22.5, 31.0, figure))
        };
        let mut growing = Vec::new();
        if self.samples.len() < MIN_SAMPLES {
            growing.push(format!("only {} samples could be taken", self.samples.len()));
        }
        println!("medians of the third and of the fourth quarter");
        check_growth(&mut growing, "memory, KB", quarters(&|sample| sample.memory_kb as f64), 4096.0);
        check_growth(&mut growing, "open files", quarters(&|sample| sample.open_files as f64), 6.0);
        check_growth(&mut growing, "threads", quarters(&|sample| sample.threads as f64), 2.0);
        check_growth(&mut growing, "connections", quarters(&|sample| sample.connections as f64), 3.0);
        check_growth(&mut growing, "write-ahead log, KB", quarters(&|sample| sample.log_kb as f64), 20_000.0);
        let tombstones = |sample: &ResourceSample| sample.rows.get("tombstone").copied().unwrap_or(0) as f64;
        let (before, after) = quarters(&tombstones);
        let erased = (after - before).max(1.0);
        let sizes = |sample: &ResourceSample, names: &[&str]| -> f64 {
            names.iter().map(|name| sample.sizes_kb.get(*name).copied().unwrap_or(0) as f64).sum()
        };
        let bounded: Vec<&str> = TABLE_ROW_LIMITS.iter().map(|(name, _)| *name).collect();
        // On Postgres the tables that grow by design are measured by themselves; on SQLite they are in the figure of the file.
        let (left, most) = if self.samples.iter().all(|(_, sample)| sample.sizes_kb.is_empty()) {
            (0.0, BYTES_LEFT_PER_ERASED_SEGMENT)
        } else {
            let by_design = quarters(&|sample| sizes(sample, TABLES_GROWING_BY_DESIGN));
            ((by_design.1 - by_design.0) * 1024.0 / erased, 0.0)
        };
        println!("{:>24}: {left:.0} bytes for each of {erased:.0} segments erased meanwhile", "grown by design");
        if left > BYTES_LEFT_PER_ERASED_SEGMENT_ON_POSTGRES {
            growing.push(format!("each erased segment left {left:.0} bytes"));
        }
        let rest = |sample: &ResourceSample| {
            sample.used_kb as f64 - sizes(sample, TABLES_GROWING_BY_DESIGN) - sizes(sample, &bounded)
        };
        let (third, fourth) = quarters(&rest);
        let expected_growth = erased * most / 1024.0;
        println!(
            "{:>24}: {third:>10.0} {fourth:>10.0}, {:.0} bytes for each erased segment",
            "database in use, KB",
            (fourth - third) * 1024.0 / erased,
        );
        let tables = self.samples.last().map(|(_, last)| &last.sizes_kb);
        for name in tables.into_iter().flat_map(|tables| tables.keys()) {
            let (third, fourth) = quarters(&|sample| sizes(sample, &[name.as_str()]));
            if fourth > third {
                println!("{:>24}: {third:>10.0} {fourth:>10.0} KB of {name}", "");
            }
        }
        if fourth > third * 1.1 + expected_growth {
            growing.push(format!(
                "the database went from {third:.0} KB in use to {fourth:.0}, of which {expected_growth:.0} are expected"
            ));
        }
        let names: Vec<String> =
            self.samples.last().map(|(_, last)| last.rows.keys().cloned().collect()).unwrap_or_default();
        for name in names {
            let rows = quarters(&|sample| sample.rows.get(&name).copied().unwrap_or(0) as f64);
            if name == "attempt" {
                // A faster machine retries missing artifacts more often. Attempts of erased segments are counted separately.
                println!("{name:>24}: {:>10.0} {:>10.0} not checked", rows.0, rows.1);
            } else if TABLES_GROWING_BY_DESIGN.contains(&name.as_str()) {
                println!("{name:>24}: {:>10.0} {:>10.0} by design", rows.0, rows.1);
            } else if let Some((_, most)) = TABLE_ROW_LIMITS.iter().find(|(bounded, _)| *bounded == name) {
                println!("{name:>24}: {:>10.0} {:>10.0} of at most {most}", rows.0, rows.1);
                if rows.1 > *most as f64 {
                    growing.push(format!("{name} has {:.0} rows, of at most {most}", rows.1));
                }
            } else {
                check_growth(&mut growing, &name, rows, 60.0);
            }
        }
        growing
    }
}
