//! The queries over all accounts for the dashboard and the metrics, on both databases.
#![expect(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use std::time::Duration;

use crate::support;

use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{AccountKey, Arg, Db, MeasureCell, MeasureSample, MeasureSum, MeasureWidth, sql};
use ringcx_extractor::model::AccountId;
use support::TestDb;

crate::on_both! {
    lateness_adds_up_over_accounts,
    the_course_of_an_account_is_kept_in_bounded_periods,
    records_set_aside_are_counted_until_a_read_settles_them,
}

async fn register_account(db: &Db, sub: &str) -> AccountKey {
    db.register_account(&AccountId::new("1", sub), None, Time(0)).await.unwrap().key
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
