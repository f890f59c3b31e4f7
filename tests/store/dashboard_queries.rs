//! The queries over all accounts for the dashboard and the metrics, on both databases.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::time::Duration;

use crate::support;

use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{
    AccountKey, Arg, CoverageRow, Db, FailureRow, MeasureCell, MeasureSample, MeasureSum, MeasureWidth, sql,
};
use ringcx_extractor::model::{AccountId, Artifact, TimeRange};
use support::TestDb;

crate::on_both! {
    coverage_of_all_accounts_is_what_ends_after_a_moment,
    failures_are_counted_by_artifact_and_reason,
    lateness_adds_up_over_accounts,
    the_course_of_an_account_is_kept_in_bounded_periods,
    records_set_aside_are_counted_until_a_read_settles_them,
}

async fn register_account(db: &Db, sub: &str) -> AccountKey {
    db.register_account(&AccountId::new("1", sub), None, Time(0)).await.unwrap().key
}

async fn coverage_of_all_accounts_is_what_ends_after_a_moment(test: TestDb) {
    let (one, two) = (register_account(&test.db, "one").await, register_account(&test.db, "two").await);
    for (account, pass, from, to) in [(one, "live", 0, 50), (one, "live", 60, 90), (two, "recheck:3600", 10, 51)] {
        let stmt = sql(
            "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values ($1, $2, $3, $4, 1, 0, 0)",
        );
        test.db.run(stmt.bind(account).bind(pass).bind(Time(from)).bind(Time(to))).await.unwrap();
    }
    let row = |account, pass: &str, from, to| CoverageRow {
        account,
        purpose: pass.to_owned(),
        range: TimeRange { from: Time(from), to: Time(to) },
    };
    let expected = [row(one, "live", 60, 90), row(two, "recheck:3600", 10, 51)];
    assert_eq!(test.db.coverage_since(Time(50)).await.unwrap(), expected);
}

async fn failures_are_counted_by_artifact_and_reason(test: TestDb) {
    let (one, two) = (register_account(&test.db, "one").await, register_account(&test.db, "two").await);
    let work = [
        (1, one, 2, "400"),
        (2, one, 2, "400"),
        (3, two, 2, "400"),
        (4, two, 2, "410"),
        (5, two, 1, "404"),
        (6, one, 0, "500"),
    ];
    for (segment, account, state, reason) in work {
        let stmt = sql("insert into work (item, segment, artifact, account, lane, state, due, created, reason)
             values ($1, $2, 0, $3, 0, $4, 0, 0, $5)");
        let stmt = stmt.bind(segment * 4_i64).bind(segment).bind(account).bind(state as i64);
        test.db.run(stmt.bind(reason)).await.unwrap();
    }
    let row = |reason: &str, account, accounts, items| FailureRow {
        artifact: Artifact::Transcript,
        reason: Some(reason.to_owned()),
        account,
        accounts,
        items,
    };
    assert_eq!(test.db.failures(9).await.unwrap(), [row("400", one.min(two), 2, 3), row("410", two, 1, 1)]);
    assert_eq!(test.db.failures(1).await.unwrap().len(), 1);
}

async fn lateness_adds_up_over_accounts(test: TestDb) {
    for (account, kind, bucket, count) in [(1, "flip", 3, 2), (2, "flip", 3, 5), (2, "appear", 9, 1)] {
        let stmt = sql("insert into lateness (account, kind, bucket, count) values ($1, $2, $3, $4)");
        let stmt = stmt.bind(account as i64).bind(kind).bind(bucket as i64).bind(count as i64);
        test.db.run(stmt).await.unwrap();
    }
    let expected = [("appear".to_owned(), 9, 1), ("flip".to_owned(), 3, 7)];
    assert_eq!(test.db.lateness_of_all().await.unwrap(), expected);
}

async fn records_set_aside_are_counted_until_a_read_settles_them(test: TestDb) {
    let account = register_account(&test.db, "one").await;
    register_account(&test.db, "two").await;
    for (digest, resolved) in [("a", None), ("b", None), ("c", Some(9))] {
        let stmt = sql(
            "insert into aside (account, digest, reason, raw, first_seen, last_seen, times, from_ms, to_ms, due, resolved)
             values ($1, $2, 'no id', $3, 0, 0, 1, 0, 1, 0, $4)",
        );
        let stmt = stmt.bind(account).bind(digest.as_bytes().to_vec()).bind(b"{}".to_vec()).bind(Arg::Int(resolved));
        test.db.run(stmt).await.unwrap();
    }
    assert_eq!(test.db.open_quarantine_counts().await.unwrap(), [("one".to_owned(), (2, Time(0)))].into());
}

async fn the_course_of_an_account_is_kept_in_bounded_periods(test: TestDb) {
    let db = &test.db;
    let (one, two) = (register_account(db, "one").await, register_account(db, "two").await);
    let sample = |account, level, lag: Option<u64>, done| MeasureSample {
        account,
        level,
        lag: lag.map(Duration::from_secs),
        unfinished: 5,
        done,
        requests: 60,
    };
    let day = Duration::from_secs(86_400);
    let begin = Time(1_800_000_000_000);
    let minutes = |minutes: u64| begin + Duration::from_secs(60 * minutes);
    db.record_measures(&[sample(one, 0, None, 3), sample(two, 2, Some(10), 1)], minutes(1)).await.unwrap();
    db.record_measures(&[sample(one, 3, Some(40), 4), sample(two, 1, Some(9), 0)], minutes(6)).await.unwrap();
    db.record_measures(&[sample(one, 1, Some(7), 2)], minutes(11)).await.unwrap();
    let sum = |lag: u64, unfinished, done, requests| MeasureSum {
        lag: Some(Duration::from_secs(lag)),
        unfinished,
        done,
        requests,
    };
    let width = MeasureWidth::TenMinutes;
    let all = db.measure_sums(width, begin, None).await.unwrap();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [(begin, sum(40, 10, 8, 120)), (minutes(10), sum(7, 5, 2, 60))]);
    let some = db.measure_sums(width, begin, Some(&[two])).await.unwrap();
    assert_eq!(some.into_iter().collect::<Vec<_>>(), [(begin, sum(10, 5, 1, 60))]);
    assert!(db.measure_sums(width, begin, Some(&[])).await.unwrap().is_empty());
    let hours = db.measure_sums(MeasureWidth::Hour, begin, None).await.unwrap();
    assert_eq!(hours.values().map(|sum| sum.done).collect::<Vec<_>>(), [10]);
    let cells = db.measure_cells(width, begin, Duration::from_secs(1200)).await.unwrap();
    let cell = |account, period, level| MeasureCell { account, period, level };
    assert_eq!(cells, [cell(one, 0, 3), cell(two, 0, 2)]);
    // A later sample deletes what is past its time, whoever recorded it.
    db.record_measures(&[], begin + day * 2).await.unwrap();
    assert!(db.measure_sums(width, begin, None).await.unwrap().is_empty());
    assert_eq!(db.measure_sums(MeasureWidth::Hour, begin, None).await.unwrap().len(), 1);
    db.record_measures(&[sample(one, 0, None, 0)], begin + day * 100).await.unwrap();
    let rows: i64 = db.value(sql("select count(*) from measure")).await.unwrap().unwrap();
    assert_eq!(rows, MeasureWidth::ALL.len() as i64);
}
