//! Pictures for tests.

use std::time::Duration;

use crate::clock::Time;
use crate::model::Stretch;
use crate::status::{IndexStatus, Status, Work};

use super::picture::{Picture, Row};
use super::strip::{Band, Kind, Strip};

pub(super) const NOW: Time = Time(1_800_000_000_000);
pub(super) const FRAME: Stretch = Stretch { from: Time(NOW.0 - 24 * 3_600_000), to: NOW };

/// A healthy account.
pub(super) fn row(sub: &str) -> Row {
    let bands = vec![Band { kind: Kind::Read, from: 0, to: 287 }, Band { kind: Kind::Reread, from: 0, to: 270 }];
    Row {
        sub: sub.to_owned(),
        name: None,
        owner: Some("host-1".to_owned()),
        watermark: Some(NOW - Duration::from_secs(300)),
        work: Work { done: 812, waiting: 3, ..Work::default() },
        used: 12,
        limit: 120,
        drain: Duration::from_secs(2),
        gaps: Duration::ZERO,
        paused: Vec::new(),
        missing: false,
        aside: 0,
        strip: Strip { bands, words: "read 23 h 55 min".to_owned() },
        frame: FRAME,
    }
}

/// Of these accounts.
pub(super) fn picture(rows: Vec<Row>) -> Picture {
    let status = Status {
        version: "0.1.0".to_owned(),
        now: NOW.rfc3339_secs(),
        instance: "host-1".to_owned(),
        accounts: Vec::new(),
        sinks: Vec::new(),
        backfills: Vec::new(),
        findings: Vec::new(),
        replicas: Vec::new(),
        search_index: IndexStatus::default(),
    };
    Picture { at: NOW, status, rows, frame: FRAME, failures: Vec::new(), lateness: Vec::new(), one_budget: false }
}
