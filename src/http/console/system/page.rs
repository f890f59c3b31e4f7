//! The page of the system. Pure.

use maud::{Markup, html};

use super::{Process, System};
use crate::clock::Time;
use crate::health::ReplicaStatus;
use crate::health::humanize::{format_duration, format_number};
use crate::http::console::backfill_list;
use crate::http::console::viewer::Viewer;
use crate::http::templates::{readable_time, with_code};

pub(super) fn render(system: &System, viewer: &Viewer) -> (String, Markup) {
    let content = html! {
        (replicas(&system.replicas, &system.instance, system.now))
        @if let Some(process) = &system.process { (this_process(process, system)) }
        (backfills(system, viewer))
        section #links {
            h2 { "More" }
            ul.links {
                @if system.may_see_access_log { li { a href="/system/access-log" { "Access log" } ": who read, searched, exported or erased what" } }
                li { a href="/api" { "API for programs" } ", " a href="/api/openapi.json" { "its description" } }
                li { a href="/metrics" { "Metrics" } ", " a href="/readyz" { "readiness" } ", " a href="/api/status" { "status" } }
                li { "Each page has its data as JSON: " a href="/overview.json" { "overview" } ", " a href="/system.json" { "system" } }
            }
        }
        @if !system.settings.is_empty() {
            section #settings {
                h2 { "Settings in effect" }
                p.dim { "Secrets are hidden." }
                @for section in &system.settings {
                    details #{ "settings-" (section.name) } { summary { code { "[" (section.name) "]" } } pre { (section.text) } }
                }
            }
        }
    };
    ("System".to_owned(), content)
}

fn replicas(replicas: &[ReplicaStatus], own: &str, now: Time) -> Markup {
    html! {
        section #replicas {
            h2 { "Replicas" }
            @if replicas.is_empty() { p.dim { "None is known yet." } }
            @else {
                table.stack {
                    thead { tr { th scope="col" { "Replica" } th scope="col" { "State" } th scope="col" { "Version" } th scope="col" { "Started" } th scope="col" { "Last heartbeat" } } }
                    tbody { @for replica in replicas {
                        @let (class, symbol, state) = if replica.alive { ("healthy", "✓", "running") } else { ("behind", "~", "not running") };
                        tr {
                            th scope="row" { (replica.name) @if replica.name == own { small { "this one" } } }
                            td data-label="State" { span.level.(class) aria-hidden="true" { (symbol) } " " (state) }
                            td data-label="Version" { (replica.version) }
                            td data-label="Started" { (readable_time(replica.started)) }
                            td data-label="Last heartbeat" { (format_duration(now.since(replica.heartbeat))) " ago" }
                        }
                    } }
                }
            }
        }
    }
}

fn this_process(process: &Process, system: &System) -> Markup {
    let (login, database) = (&process.login, &process.database);
    html! {
        section #process {
            h2 { "This replica" }
            @for problem in &process.problems { p.note { (problem) } }
            dl.facts {
                div { dt { "Login at RingCX" } dd {
                    (login.state) @if let Some(at) = login.at { " since " (readable_time(at)) }
                    @if let Some(problem) = &login.problem { small.note { (problem) } }
                    @if let Some(hint) = login.hint { small { (with_code(hint)) } }
                } }
                div { dt { "Credential expires" } dd { (process.credential_expires.map_or_else(|| "not known".to_owned(), readable_time)) } }
                div { dt { "Clock" } dd { (clock(process.clock_skew_ms)) } }
                div { dt { "Database" } dd { (database.kind) ", " @if system.is_database_up { "answers" } @else { "does not answer" } } }
                @if let Some(bytes) = database.file_bytes { div { dt { "Archive" } dd { (format_bytes(bytes)) @if let Some(log) = database.log_bytes { ", and " (format_bytes(log)) " of log" } } } }
                @if let Some(bytes) = database.free_bytes { div { dt { "Free on its disk" } dd { (format_bytes(bytes)) } } }
                @if let Some(changes) = process.index_lag_changes { div { dt { "Search index" } dd { @if changes == 0 { "current" } @else { (format_number(changes)) " changes behind" } } } }
            }
        }
    }
}

fn clock(skew_ms: i64) -> String {
    match skew_ms {
        0 => "no difference to RingCX's is known".to_owned(),
        ahead => format!(
            "{} ms {} RingCX's",
            format_number(ahead.unsigned_abs()),
            if ahead > 0 { "behind" } else { "ahead of" }
        ),
    }
}

/// A size for people, in powers of ten.
fn format_bytes(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{}.{} {unit}", bytes / size, bytes % size * 10 / size),
        None => format!("{bytes} B"),
    }
}

fn backfills(system: &System, viewer: &Viewer) -> Markup {
    html! {
        section #backfills {
            h2 { "Backfills" }
            @if system.backfills.is_empty() { p.dim { "None is open. The page of an account has a form for a new one." } }
            (backfill_list::table(&system.backfills, viewer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_clocks_are_written_for_people() {
        assert_eq!([999, 1000, 1_550_000, 2_000_000_000].map(format_bytes), ["999 B", "1.0 kB", "1.5 MB", "2.0 GB"]);
        assert_eq!(clock(1500), "1,500 ms behind RingCX's");
        assert_eq!(clock(-20), "20 ms ahead of RingCX's");
    }
}
