//! The heat map of accounts by time: the worst health of each account in each cell. Pure.

use std::time::Duration;

use maud::{Markup, html};

use super::history::HistoryRange;
use crate::clock::Time;
use crate::health::HealthLevel;
use crate::health::humanize::format_duration;

/// Cells in a row with the same level; `None` where nothing was recorded.
type Run = (Option<HealthLevel>, usize, usize);

fn runs(cells: &[Option<HealthLevel>]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (place, level) in cells.iter().enumerate() {
        match runs.last_mut() {
            Some((last, _, end)) if last == level => *end = place + 1,
            _ => runs.push((*level, place, place + 1)),
        }
    }
    runs
}

/// The row of an account. Equal cells in a row are one shape, so that hundreds of healthy accounts
/// stay small.
pub(super) fn row(cells: &[Option<HealthLevel>], range: HistoryRange, first_cell: Time) -> Markup {
    let (runs, width) = (runs(cells), range.cell_width());
    let at = |place: usize| first_cell + width * u32::try_from(place).unwrap_or(u32::MAX);
    html! {
        svg.heat viewBox={ "0 0 " (cells.len()) " 1" } preserveAspectRatio="none" role="img" aria-label=(description(cells, width)) {
            @for (level, from, to) in &runs {
                @if let Some(level) = level {
                    rect.(level.css_class()) x=(from) width=(to - from) height="1" {
                        title { (level.display_name()) ", " (short_time(at(*from))) " to " (short_time(at(*to))) " UTC" }
                    }
                }
            }
        }
    }
}

/// The text alternative: how long each level lasted, the worst first.
fn description(cells: &[Option<HealthLevel>], width: Duration) -> String {
    let total = |wanted: Option<HealthLevel>| {
        let count = cells.iter().filter(|level| **level == wanted).count();
        width * u32::try_from(count).unwrap_or(u32::MAX)
    };
    let levels =
        HealthLevel::ALL.into_iter().rev().map(|level| (level.display_name().to_lowercase(), total(Some(level))));
    let all = levels.chain([("not recorded".to_owned(), total(None))]);
    let some = all.filter(|(_, total)| !total.is_zero());
    some.map(|(name, total)| format!("{name} {}", format_duration(total))).collect::<Vec<_>>().join(", ")
}

/// Day and time of day.
pub(super) fn short_time(time: Time) -> String {
    time.rfc3339_secs().get(5..16).unwrap_or_default().replace('T', " ")
}

/// The labels below the rows: the start, the middle and the end.
pub(super) fn scale(range: HistoryRange, first_cell: Time) -> Markup {
    let middle = first_cell + range.cell_width() * (range.cell_count() as u32 / 2);
    html! {
        span.scale aria-hidden="true" { span { (short_time(first_cell)) } span { (short_time(middle)) } span { "now" } }
    }
}

/// What the colours mean.
pub(super) fn legend() -> Markup {
    html! {
        ul.legend aria-label="Legend of the heat map" {
            @for level in HealthLevel::ALL {
                li { svg.swatch.heat viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true" { rect.(level.css_class()) width="1" height="1" {} } (level.display_name()) }
            }
            li { svg.swatch.heat viewBox="0 0 1 1" aria-hidden="true" {} "not recorded" }
        }
    }
}

/// An account whose level has changed, for the list of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelChange {
    pub(super) place: usize,
    pub(super) before: HealthLevel,
    pub(super) after: HealthLevel,
}

/// The changes of an account's level, from one recorded cell to the next.
pub(super) fn changes(cells: &[Option<HealthLevel>]) -> Vec<LevelChange> {
    let recorded: Vec<(usize, HealthLevel)> =
        cells.iter().enumerate().filter_map(|(place, level)| Some((place, (*level)?))).collect();
    let pairs = recorded.windows(2).filter_map(|pair| match pair {
        [(_, before), (place, after)] if before != after => {
            Some(LevelChange { place: *place, before: *before, after: *after })
        }
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use HealthLevel::{Behind, Healthy, Trouble};

    const CELLS: [Option<HealthLevel>; 6] =
        [Some(Healthy), Some(Healthy), None, Some(Trouble), Some(Trouble), Some(Behind)];

    #[test]
    fn equal_cells_in_a_row_are_one_shape() {
        assert_eq!(runs(&CELLS), [(Some(Healthy), 0, 2), (None, 2, 3), (Some(Trouble), 3, 5), (Some(Behind), 5, 6)]);
        let page = row(&CELLS, HistoryRange::Day, Time(1_800_000_000_000)).into_string();
        assert_eq!(page.matches("<rect").count(), 3);
        assert!(page.contains("in trouble 2 h, behind 1 h, healthy 2 h, not recorded 1 h"), "{page}");
    }

    #[test]
    fn a_change_is_found_across_a_time_without_records() {
        let change = |place, before, after| LevelChange { place, before, after };
        assert_eq!(changes(&CELLS), [change(3, Healthy, Trouble), change(5, Trouble, Behind)]);
        assert_eq!(changes(&[None, Some(Healthy)]), []);
    }
}
