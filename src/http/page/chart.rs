//! A small chart of the last day.

use std::time::Duration;

use maud::{Markup, html};

use crate::model::Stretch;

use super::super::history::Sample;

const WIDTH: f64 = 288.0;
const HEIGHT: f64 = 40.0;

/// A chart shows an hour at the least.
const LEAST: Duration = Duration::from_secs(3600);

/// How one figure went, from the first sample within `frame` to its end; `words` writes a value for people. Two points
/// make a line; until then there is nothing to see.
pub(super) fn spark(
    samples: &[Sample],
    frame: Stretch,
    figure: fn(&Sample) -> u64,
    words: fn(u64) -> String,
) -> Option<Markup> {
    let shown: Vec<&Sample> = samples.iter().filter(|sample| frame.contains(sample.at)).collect();
    let first = shown.first().filter(|_| shown.len() > 1)?.at;
    let most = shown.iter().map(|sample| figure(sample)).max().unwrap_or(0);
    let frame = Stretch { from: first.min(frame.to - LEAST).max(frame.from), ..frame };
    let peak = format!("at most {} since {} UTC", words(most), super::row::clock(first));
    Some(html! {
        svg.spark viewBox="0 0 288 40" preserveAspectRatio="none" role="img" aria-label=(peak) {
            path.area d=(path(&shown, frame, figure, most, true)) {}
            path.line d=(path(&shown, frame, figure, most, false)) {}
        }
        small { (peak) }
    })
}

fn path(shown: &[&Sample], frame: Stretch, figure: fn(&Sample) -> u64, most: u64, closed: bool) -> String {
    let width = (frame.to.0 - frame.from.0).max(1) as f64;
    let x = |sample: &Sample| (sample.at.0 - frame.from.0) as f64 / width * WIDTH;
    let y = |sample: &Sample| HEIGHT - 1.0 - figure(sample) as f64 / most.max(1) as f64 * (HEIGHT - 3.0);
    let mut path = String::with_capacity(shown.len() * 12);
    for (index, sample) in shown.iter().enumerate() {
        let step = if index == 0 { 'M' } else { 'L' };
        path.push_str(&format!("{step}{:.1} {:.1}", x(sample), y(sample)));
    }
    if let (true, Some(first), Some(last)) = (closed, shown.first(), shown.last()) {
        path.push_str(&format!("L{:.1} {HEIGHT}L{:.1} {HEIGHT}Z", x(last), x(first)));
    }
    path
}
