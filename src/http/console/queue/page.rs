//! The page of the queue. Pure.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::super::elements::{choice, path_with, time_of, utc_time};
use super::QueueParameters;
use super::actions::{ALL_FIELD, DiscardItems, ONLY_FIELD, PICK_PREFIX, RetryItems, item_value};
use crate::access::Permission;
use crate::archive_reader::{ITEM_STATES, QueueItemView, QueueReasonView, QueueView};
use crate::health::humanize::format_number;
use crate::http::console::action::{self, ConsoleAction, PATH_PREFIX};
use crate::http::console::viewer::Viewer;
use crate::model::Artifact;
use crate::render::clean_line;

/// The columns of the list after the mark.
const COLUMNS: [&str; 6] = ["Segment", "Account", "Artifact", "State", "Tries", "Why"];

/// What a state means.
const MEANINGS: [(&str, &str); 4] = [
    ("failed", "needs a person"),
    ("unavailable", "gave up: still missing after fetch.give_up_after"),
    ("waiting", "to be fetched, now or later"),
    ("discarded", "discarded by a person"),
];

pub(super) fn render(queue: &QueueView, parameters: &QueueParameters, viewer: &Viewer) -> Markup {
    let may_operate = viewer.form_token().is_some() && queue.items.iter().any(|item| item.may_operate);
    html! {
        (counts_section(queue, parameters))
        @if !queue.reasons.is_empty() { (reasons_section(&queue.reasons)) }
        section #items {
            div.bar { h2 { "Items" } }
            (filter_form(queue, parameters))
            @if queue.items.is_empty() {
                p.todo { "No item matches. Every announced text was fetched, is known to be empty, or is in another state." }
            } @else if may_operate {
                (action_form(queue, parameters, viewer))
            } @else {
                (item_table(queue, false))
                @if viewer.may(Permission::Operate) { p.todo { "To retry and discard items, log in with a browser; programs use the API." } }
                @else { p.todo { "Items are retried and discarded by those whose role may operate." } }
            }
            @if let Some(next) = &queue.next {
                p.pages { a rel="next" href=(path_with("/queue", parameters.pairs().into_iter().chain([("cursor", next.as_str())]))) { "Next page →" } }
            }
        }
    }
}

fn counts_section(queue: &QueueView, parameters: &QueueParameters) -> Markup {
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for count in &queue.counts {
        *totals.entry(count.state).or_default() += count.items;
    }
    html! {
        div.tiles #counts {
            @for (name, meaning) in MEANINGS {
                a.tile href=(path_with("/queue", [("state", name)])) aria-current=[(parameters.state == name).then_some("true")] {
                    h3 { (name) }
                    p { (format_number(totals.get(name).copied().unwrap_or_default())) }
                    small { (meaning) }
                }
            }
        }
        @if queue.counts_are_partial {
            p.todo { "Your role shows only some channels, so the items of these accounts are not counted here." }
        }
    }
}

fn reasons_section(reasons: &[QueueReasonView]) -> Markup {
    html! {
        section #reasons {
            h2 { "Reasons" }
            table.stack {
                thead { tr { th { "Why" } th { "State" } th { "Artifact" } th { "Items" } th { "Accounts" } } }
                tbody {
                    @for reason in reasons {
                        @let filter = [("state", reason.state), ("artifact", reason.artifact), ("reason", reason.reason.as_str())];
                        tr {
                            th scope="row" { a href=(path_with("/queue", filter)) { (clean_line(&reason.reason)) } }
                            td data-label="State" { (reason.state) }
                            td data-label="Artifact" { (reason.artifact.replace('_', " ")) }
                            td.number data-label="Items" { (format_number(reason.items)) }
                            td.number data-label="Accounts" { (format_number(reason.sub_account_ids.len() as u64)) }
                        }
                    }
                }
            }
        }
    }
}

fn filter_form(queue: &QueueView, parameters: &QueueParameters) -> Markup {
    let mut accounts: BTreeMap<&str, &str> = BTreeMap::new();
    for count in &queue.counts {
        accounts.insert(&count.sub_account_id, count.account_name.as_deref().unwrap_or(&count.sub_account_id));
    }
    // The chosen one stays chosen, also if it has no counts.
    if !parameters.account.is_empty() {
        accounts.entry(&parameters.account).or_insert(&parameters.account);
    }
    let accounts: Vec<(&str, &str)> = accounts.into_iter().collect();
    let artifacts = Artifact::ALL.map(|artifact| (artifact.name(), artifact.name()));
    let states: Vec<(&str, &str)> = ITEM_STATES.iter().map(|(name, _)| (*name, *name)).collect();
    html! {
        form.filters method="get" action="/queue" #filter data-keep {
            (choice("state", "State", &parameters.state, &[[("all", "any state")].as_slice(), &states].concat()))
            (choice("account", "Account", &parameters.account, &accounts))
            (choice("artifact", "Artifact", &parameters.artifact, &artifacts))
            label { span { "Segment" } input type="text" name="segment" value=(parameters.segment); }
            @if !parameters.reason.is_empty() {
                label { span { "Why" } input type="text" name="reason" value=(parameters.reason); }
            }
            button type="submit" { "Filter" }
        }
    }
}

/// The list with marks and buttons. Two actions share the form.
fn action_form(queue: &QueueView, parameters: &QueueParameters, viewer: &Viewer) -> Markup {
    let discard = format!("{PATH_PREFIX}{}", DiscardItems::NAME);
    let inputs = html! {
        (item_table(queue, true))
        div.bulk {
            button type="submit" formaction=(discard) { "Discard marked …" }
            @if parameters.segment.is_empty() {
                button type="submit" name=(ALL_FIELD) value="yes" { "Retry all that match the filter" }
                button type="submit" name=(ALL_FIELD) value="yes" formaction=(discard) { "Discard all that match …" }
            }
        }
    };
    let fields = parameters.pairs();
    let fields: Vec<(&str, &str)> = fields.into_iter().filter(|(name, _)| *name != "segment").collect();
    action::form::<RetryItems>(viewer, &fields, &inputs, "Retry marked")
}

fn item_table(queue: &QueueView, with_actions: bool) -> Markup {
    html! {
        table.stack.items {
            thead { tr {
                @if with_actions { th { span.hidden { "Mark" } } }
                @for column in COLUMNS { th scope="col" { (column) } }
                @if with_actions { th { "" } }
            } }
            tbody { @for item in &queue.items { (item_row(item, with_actions)) } }
        }
    }
}

fn item_row(item: &QueueItemView, with_actions: bool) -> Markup {
    let value = item_value(item.artifact, &item.sub_account_id, &item.segment_id);
    let path = path_with("/conversation", [("account", item.sub_account_id.as_str()), ("segment", &item.segment_id)]);
    html! {
        tr {
            @if with_actions {
                td.mark {
                    @if item.may_operate {
                        // Named by its item, not by its row: a live update keeps it where the rows have changed.
                        input type="checkbox" id={ "mark-" (value) } data-keep name={ (PICK_PREFIX) (value) } value=(value)
                            aria-label={ "Mark " (item.artifact) " of segment " (item.segment_id) };
                    }
                }
            }
            th scope="row" {
                @if item.may_read { a href=(path) { code { (clean_line(&item.segment_id)) } } }
                @else { code { (clean_line(&item.segment_id)) } }
                small { "ended " (utc_time(time_of(item.segment_end.as_deref()))) }
            }
            td data-label="Account" { (clean_line(item.account_name.as_deref().unwrap_or(&item.sub_account_id))) }
            td data-label="Artifact" { (item.artifact.replace('_', " ")) }
            td data-label="State" {
                (item.state)
                @if let Some(due) = &item.due { small { "due " (utc_time(time_of(Some(due)))) } }
            }
            td.number data-label="Tries" { (item.tries) }
            td.wide data-label="Why" {
                @if let Some(status) = item.status { span.number { (status) } " " }
                (item.reason.as_deref().map(clean_line).unwrap_or_default())
            }
            @if with_actions {
                td.wide {
                    @if item.may_operate {
                        button type="submit" name=(ONLY_FIELD) value=(value) { "Retry" }
                    }
                }
            }
        }
    }
}
