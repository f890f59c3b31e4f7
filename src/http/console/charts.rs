//! Four charts of the course of the visible accounts. Each is drawn here as SVG, and again with its
//! values under the pointer where scripts run. Pure.

use std::time::Duration;

use maud::{Markup, html};
use serde::Serialize;

use super::history::{History, HistoryRange};
use crate::clock::Time;
use crate::db::MeasureSum;
use crate::health::humanize::{format_duration, format_number};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 100.0;

/// What the values of a chart are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Unit {
    Seconds,
    Number,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Number => "number",
        }
    }

    fn format(self, value: u64) -> String {
        match self {
            Unit::Seconds => format_duration(Duration::from_secs(value)),
            Unit::Number => format_number(value),
        }
    }
}

/// A value over time.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Chart {
    id: &'static str,
    title: &'static str,
    unit: Unit,
    /// Seconds since 1970, and the values at these times; null where nothing was recorded.
    series: (Vec<i64>, Vec<Option<u64>>),
}

/// The charts of a history.
pub(in crate::http) fn charts(history: &History) -> [Chart; 4] {
    let times: Vec<Time> = history.periods().collect();
    let chart = |id, title, unit, value: &dyn Fn(&MeasureSum) -> Option<u64>| {
        let values = times.iter().map(|at| history.sums.get(at).and_then(value)).collect();
        Chart { id, title, unit, series: (times.iter().map(|at| at.0.div_euclid(1000)).collect(), values) }
    };
    let per_hour = |done: u64| done * 3600 / history.width.as_secs().max(1);
    [
        chart("chart-lag", "Furthest behind", Unit::Seconds, &|sum| sum.lag.map(|lag| lag.as_secs())),
        chart("chart-unfinished", "Unfinished items", Unit::Number, &|sum| Some(sum.unfinished)),
        chart("chart-done", "Completed items an hour", Unit::Number, &|sum| Some(per_hour(sum.done))),
        chart("chart-requests", "Requests a minute", Unit::Number, &|sum| Some(sum.requests)),
    ]
}

/// Links to the other ranges. `path` is the page, with a query if `query` follows.
pub(in crate::http) fn range_choice(path: &str, chosen: HistoryRange) -> Markup {
    html! {
        nav.choice aria-label="Range of time" {
            @for range in HistoryRange::ALL {
                a href={ (path) (if path.contains('?') { "&" } else { "?" }) "range=" (range.name()) }
                    aria-current=[(range == chosen).then_some("true")] { (range.name()) }
            }
        }
    }
}

impl Chart {
    pub(in crate::http) fn markup(&self) -> Markup {
        let peak = self.series.1.iter().copied().flatten().max();
        let last = self.series.1.iter().copied().flatten().next_back();
        let description = match (peak, last) {
            (Some(peak), Some(last)) => format!("now {}, at most {}", self.unit.format(last), self.unit.format(peak)),
            _ => "nothing recorded yet".to_owned(),
        };
        html! {
            div.chart #(self.id) data-unit=(self.unit.name()) data-series=(serde_json::to_string(&self.series).unwrap_or_default()) {
                h3 { (self.title) }
                small { (description) }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={ (self.title) ": " (description) } {
                    @for line in self.lines(peak.unwrap_or(0)) { path.line d=(line) {} }
                }
            }
        }
    }

    /// The unbroken lines of the values.
    fn lines(&self, peak: u64) -> Vec<String> {
        let (times, values) = &self.series;
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
        let width = (last - first).max(1) as f64;
        let mut lines: Vec<String> = Vec::new();
        let mut is_open = false;
        for (at, value) in times.iter().zip(values) {
            let Some(value) = value else {
                is_open = false;
                continue;
            };
            let x = (at - first) as f64 / width * WIDTH;
            let y = HEIGHT - 2.0 - *value as f64 / peak.max(1) as f64 * (HEIGHT - 6.0);
            match lines.last_mut().filter(|_| is_open) {
                Some(line) => line.push_str(&format!("L{x:.1} {y:.1}")),
                // A line of no length shows a single value, with round ends.
                None => lines.push(format!("M{x:.1} {y:.1}h0")),
            }
            is_open = true;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_samples_is_a_gap_in_the_line() {
        let values = vec![Some(0), Some(10), None, Some(5), Some(5)];
        let chart = Chart { id: "x", title: "X", unit: Unit::Number, series: ((0..5).collect(), values) };
        assert_eq!(chart.lines(10), ["M0.0 98.0h0L75.0 4.0", "M225.0 51.0h0L300.0 51.0"]);
        let page = chart.markup().into_string();
        assert!(page.contains("now 5, at most 10") && page.contains("[[0,1,2,3,4],[0,10,null,5,5]]"), "{page}");
    }
}
