//! A small chart of the last day.

use std::time::Duration;

use maud::{Markup, html};

use crate::model::TimeRange;

use super::super::lag_history::LagSample;

const WIDTH: f64 = 288.0;
const HEIGHT: f64 = 40.0;

/// The shortest range of a chart.
const MIN_RANGE: Duration = Duration::from_secs(3600);

/// Draws one value, from the first sample within `range` to its end; `format` formats a value.
/// Returns `None` for fewer than two samples.
pub(super) fn sparkline(
    samples: &[LagSample],
    range: TimeRange,
    value: fn(&LagSample) -> u64,
    format: fn(u64) -> String,
) -> Option<Markup> {
    let visible: Vec<&LagSample> = samples.iter().filter(|sample| range.contains(sample.at)).collect();
    let first = visible.first().filter(|_| visible.len() > 1)?.at;
    let max = visible.iter().map(|sample| value(sample)).max().unwrap_or(0);
    let range = TimeRange { from: first.min(range.to - MIN_RANGE).max(range.from), ..range };
    let peak = format!("at most {} since {} UTC", format(max), super::account_row::time_of_day(first));
    Some(html! {
        svg.spark viewBox="0 0 288 40" preserveAspectRatio="none" role="img" aria-label=(peak) {
            path.area d=(path_data(&visible, range, value, max, true)) {}
            path.line d=(path_data(&visible, range, value, max, false)) {}
        }
        small { (peak) }
    })
}

fn path_data(visible: &[&LagSample], range: TimeRange, value: fn(&LagSample) -> u64, max: u64, closed: bool) -> String {
    let width = (range.to.0 - range.from.0).max(1) as f64;
    let x = |sample: &LagSample| (sample.at.0 - range.from.0) as f64 / width * WIDTH;
    let y = |sample: &LagSample| HEIGHT - 1.0 - value(sample) as f64 / max.max(1) as f64 * (HEIGHT - 3.0);
    let mut data = String::with_capacity(visible.len() * 12);
    for (index, sample) in visible.iter().enumerate() {
        let step = if index == 0 { 'M' } else { 'L' };
        data.push_str(&format!("{step}{:.1} {:.1}", x(sample), y(sample)));
    }
    if let (true, Some(first), Some(last)) = (closed, visible.first(), visible.last()) {
        data.push_str(&format!("L{:.1} {HEIGHT}L{:.1} {HEIGHT}Z", x(last), x(first)));
    }
    data
}
