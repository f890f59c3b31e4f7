//! The open backfills, each with a button that cancels it. Pure.

use std::time::Duration;

use maud::{Markup, html};

use super::account_path;
use super::action::button;
use super::operator_forms::CancelBackfill;
use super::viewer::Viewer;
use crate::health::BackfillStatus;
use crate::health::humanize::format_duration;
use crate::http::templates::readable_time;

/// A table of the backfills; nothing without any.
pub(super) fn table(backfills: &[BackfillStatus], viewer: &Viewer) -> Markup {
    let duration = |seconds: u64| format_duration(Duration::from_secs(seconds));
    html! {
        @if !backfills.is_empty() {
            table.stack.backfills {
                thead { tr {
                    th scope="col" { "Backfill" } th scope="col" { "Account" } th scope="col" { "From" } th scope="col" { "To" }
                    th scope="col" { "Read" } th scope="col" { "Left" } th scope="col" {}
                } }
                tbody {
                    @for backfill in backfills {
                        tr {
                            th scope="row" { (backfill.id) small { "requested " (readable_time(backfill.requested)) } }
                            td data-label="Account" { a href=(account_path(&backfill.sub_account_id)) { (backfill.sub_account_id) } }
                            td data-label="From" { (readable_time(backfill.from)) }
                            td data-label="To" { (readable_time(backfill.to)) }
                            td data-label="Read" { (duration(backfill.read_seconds)) " of " (duration(backfill.seconds)) }
                            td data-label="Left" { "about " (duration(backfill.left_seconds)) }
                            td { @if viewer.may_operate(&backfill.sub_account_id) {
                                (button::<CancelBackfill>(viewer, &[("id", &backfill.id.to_string())], "Cancel"))
                            } }
                        }
                    }
                }
            }
        }
    }
}
