//! The course of the visible accounts over a range of time, from the database: for charts, the heat
//! map and the events.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::viewer::Viewer;
use crate::clock::{Clock, Tick, Time};
use crate::db::{AccountKey, Db, DbError, MeasureSum, MeasureWidth};
use crate::health::HealthLevel;

/// How long a history serves all viewers with the same roles.
const MAX_HISTORY_AGE: Duration = Duration::from_secs(60);

/// The range that a page shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(in crate::http) enum HistoryRange {
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
    #[serde(rename = "90d")]
    Quarter,
}

impl HistoryRange {
    pub(in crate::http) const ALL: [HistoryRange; 4] =
        [HistoryRange::Day, HistoryRange::Week, HistoryRange::Month, HistoryRange::Quarter];

    pub(in crate::http) const fn name(self) -> &'static str {
        match self {
            HistoryRange::Day => "24h",
            HistoryRange::Week => "7d",
            HistoryRange::Month => "30d",
            HistoryRange::Quarter => "90d",
        }
    }

    /// The range with this name; the shortest for another one.
    pub(in crate::http) fn parse(name: Option<&str>) -> HistoryRange {
        HistoryRange::ALL.into_iter().find(|range| Some(range.name()) == name).unwrap_or_default()
    }

    pub(in crate::http) const fn duration(self) -> Duration {
        let days = match self {
            HistoryRange::Day => 1,
            HistoryRange::Week => 7,
            HistoryRange::Month => 30,
            HistoryRange::Quarter => 90,
        };
        Duration::from_secs(days * 86_400)
    }

    /// The periods of a chart.
    const fn chart_width(self) -> MeasureWidth {
        match self {
            HistoryRange::Day => MeasureWidth::TenMinutes,
            HistoryRange::Week => MeasureWidth::Hour,
            HistoryRange::Month | HistoryRange::Quarter => MeasureWidth::SixHours,
        }
    }

    /// The rows that the heat map is made from, and the width of its cells.
    const fn cells(self) -> (MeasureWidth, Duration) {
        match self {
            HistoryRange::Day => (MeasureWidth::Hour, Duration::from_secs(3600)),
            HistoryRange::Week => (MeasureWidth::SixHours, Duration::from_secs(6 * 3600)),
            HistoryRange::Month | HistoryRange::Quarter => (MeasureWidth::SixHours, Duration::from_secs(86_400)),
        }
    }

    /// The number of cells of an account in the heat map.
    pub(in crate::http) const fn cell_count(self) -> usize {
        match self {
            HistoryRange::Day => 24,
            HistoryRange::Week => 28,
            HistoryRange::Month => 30,
            HistoryRange::Quarter => 90,
        }
    }

    /// The width of a cell of the heat map.
    pub(in crate::http) const fn cell_width(self) -> Duration {
        self.cells().1
    }

    /// The start of the heat map: its last cell contains `now`.
    pub(in crate::http) fn first_cell(self, now: Time) -> Time {
        let width = i64::try_from(self.cell_width().as_millis()).unwrap_or(1);
        let last = now.0.div_euclid(width) * width;
        Time(last - width * (self.cell_count() as i64 - 1))
    }
}

/// What was recorded in a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) struct History {
    pub(in crate::http) range: HistoryRange,
    /// Start and width of the first period of the charts.
    pub(in crate::http) since: Time,
    pub(in crate::http) width: Duration,
    pub(in crate::http) now: Time,
    /// By the start of the period; a period without a sample is not there.
    pub(in crate::http) sums: BTreeMap<Time, MeasureSum>,
    /// The worst level in each cell of the heat map, by sub-account; `None` without a sample.
    pub(in crate::http) cells: HashMap<String, Vec<Option<HealthLevel>>>,
    pub(in crate::http) first_cell: Time,
}

impl History {
    /// Reads the history of the accounts that `sees` selects, or of all.
    ///
    /// # Errors
    /// If the database cannot be read.
    async fn read(
        db: &Db,
        range: HistoryRange,
        sees: Option<&(dyn Fn(&str) -> bool + Sync)>,
        now: Time,
    ) -> Result<History, DbError> {
        let mut accounts = db.accounts().await?;
        accounts.retain(|account| sees.is_none_or(|sees| sees(&account.id.sub)));
        let subs: HashMap<AccountKey, String> =
            accounts.iter().map(|account| (account.key, account.id.sub.to_string())).collect();
        let keys: Option<Vec<AccountKey>> = sees.map(|_| accounts.iter().map(|account| account.key).collect());
        let width = range.chart_width();
        let since = width.start_of(now - range.duration());
        let sums = db.measure_sums(width, since, keys.as_deref()).await?;
        let (rows_width, cell_width) = range.cells();
        let first_cell = range.first_cell(now);
        let mut cells: HashMap<String, Vec<Option<HealthLevel>>> = HashMap::new();
        for cell in db.measure_cells(rows_width, first_cell, cell_width).await? {
            let Some(sub) = subs.get(&cell.account) else { continue };
            let row = cells.entry(sub.clone()).or_insert_with(|| vec![None; range.cell_count()]);
            if let Some(place) = usize::try_from(cell.period).ok().and_then(|period| row.get_mut(period)) {
                *place = usize::try_from(cell.level).ok().and_then(|level| HealthLevel::ALL.get(level).copied());
            }
        }
        Ok(History { range, since, width: width.width(), now, sums, cells, first_cell })
    }

    /// The starts of all periods of the charts.
    pub(in crate::http) fn periods(&self) -> impl Iterator<Item = Time> {
        let (since, width, now) = (self.since, self.width, self.now);
        (0_u32..).map(move |number| since + width * number).take_while(move |at| *at <= now)
    }
}

/// A range, and the roles of a viewer who sees a part; no role for those who see everything.
type HistoryKey = (HistoryRange, Vec<String>);

/// The last histories, by what is visible: many open pages cost no more than one.
#[derive(Default)]
pub(in crate::http) struct HistoryCache(Mutex<HashMap<HistoryKey, (Tick, Arc<History>)>>);

impl HistoryCache {
    /// The history of what a viewer sees, at most a minute old.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub(in crate::http) async fn get(
        &self,
        db: &Db,
        range: HistoryRange,
        viewer: &Viewer,
        clock: &Clock,
    ) -> Result<Arc<History>, DbError> {
        // Its sums are over all channels.
        let sees = |sub: &str| viewer.sees_account(sub) && viewer.sees_all_channels(sub);
        let sees: Option<&(dyn Fn(&str) -> bool + Sync)> = if viewer.sees_everything() { None } else { Some(&sees) };
        let roles = viewer.caller().filter(|_| sees.is_some()).map(|caller| caller.role_names().map(str::to_owned));
        let key: HistoryKey = (range, roles.into_iter().flatten().collect());
        // Held while the history is read: others wait for the same one.
        let mut histories = self.0.lock().await;
        histories.retain(|_, (read, _)| clock.tick().since(*read) < MAX_HISTORY_AGE);
        if let Some((_, history)) = histories.get(&key) {
            return Ok(history.clone());
        }
        let history = Arc::new(History::read(db, range, sees, clock.now()).await?);
        histories.insert(key, (clock.tick(), history.clone()));
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    #[test]
    fn the_last_cell_of_the_heat_map_contains_now() {
        for range in HistoryRange::ALL {
            let last = range.first_cell(NOW) + range.cell_width() * (range.cell_count() as u32 - 1);
            assert!(last <= NOW && NOW < last + range.cell_width(), "{range:?}");
            assert_eq!(range.cell_width() * range.cell_count() as u32, range.duration(), "{range:?}");
            assert_eq!(HistoryRange::parse(Some(range.name())), range);
        }
        assert_eq!(HistoryRange::parse(Some("1y")), HistoryRange::Day);
    }

    #[test]
    fn the_periods_of_a_chart_end_with_the_current_one() {
        let since = NOW - Duration::from_secs(7200);
        let history = History {
            range: HistoryRange::Day,
            since,
            width: Duration::from_secs(3600),
            now: NOW,
            sums: BTreeMap::new(),
            cells: HashMap::new(),
            first_cell: since,
        };
        assert_eq!(history.periods().collect::<Vec<_>>(), [since, since + Duration::from_secs(3600), NOW]);
    }
}
