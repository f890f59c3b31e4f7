//! The list of conversations: the search form, facets with counts, and the conversations. Pure.
//!
//! All external text passes through `maud`, which escapes it. What customers wrote also passes through
//! `render::clean_text`, so that no control character reverses the direction of the text after it.

use std::time::Duration;

use maud::{Markup, html};

use super::super::elements::{display_value, local_time, path_with, time_of};
use super::ListParameters;
use crate::archive_reader::{ConversationItem, ConversationList, FacetValue, SearchHitView};
use crate::health::humanize::{format_duration, format_number};
use crate::http::api::problem::Problem;
use crate::http::console::assets;
use crate::render::clean_line;

/// The facets in their order: the parameter and the label.
const FACETS: [(&str, &str); 6] = [
    ("account", "Account"),
    ("agent", "Agent"),
    ("channel", "Channel"),
    ("direction", "Direction"),
    ("disposition", "Disposition"),
    ("has", "Has"),
];
/// Values of a facet that are shown; the others are in a part that opens.
const SHOWN_VALUES: usize = 8;

/// Renders the list, or what is wrong with the question.
pub(super) fn render(parameters: &ListParameters, found: Result<&ConversationList, &Problem>) -> Markup {
    html! {
        script src=(assets::CONVERSATION_SCRIPT.url()) defer {}
        section.search { (search_form(parameters)) }
        @match found {
            Err(problem) => section.problem role="alert" {
                p { (problem.detail()) }
                @if let Some(hint) = problem.hint() { p.todo { (hint) } }
            },
            Ok(list) => div.browse {
                (facets_nav(parameters, list))
                div.found {
                    (summary(parameters, list))
                    ol.conversations { @for item in &list.items { (conversation_item(parameters, item)) } }
                    @if let Some(next) = &list.next {
                        p.pages { a rel="next" href=(link(parameters, &[("cursor", next)])) { "Next page →" } }
                    }
                }
            },
        }
    }
}

/// The address of the list with other values of some parameters.
fn link(parameters: &ListParameters, changes: &[(&str, &str)]) -> String {
    let changed = |name: &str| changes.iter().any(|(changed, _)| *changed == name);
    let kept = parameters.pairs().into_iter().filter(|(name, _)| !changed(name));
    path_with("/conversations", kept.chain(changes.iter().copied()))
}

fn search_form(parameters: &ListParameters) -> Markup {
    html! {
        form method="get" action="/conversations" role="search" {
            div.query {
                input type="search" name="q" value=(parameters.q) placeholder="Search what was said, summaries and notes"
                    aria-label="Words to search for";
                button type="submit" { "Search" }
            }
            div.filters {
                label { span { "Ended from (UTC)" } input type="date" name="from" value=(parameters.from); }
                label { span { "to" } input type="date" name="to" value=(parameters.to); }
                label { span { "Agent, by id or name" } input type="text" name="agent" value=(parameters.agent); }
                label.check {
                    input type="checkbox" name="sort" value="newest" checked[parameters.sort == "newest"];
                    " newest first"
                }
                @for (name, value) in parameters.pairs() {
                    @if ["account", "channel", "direction", "disposition", "has"].contains(&name) && !value.is_empty() {
                        input type="hidden" name=(name) value=(value);
                    }
                }
            }
            details {
                summary { "How words match" }
                p {
                    "All words must occur, in any order. " code { "\"charged twice\"" } " finds a phrase, " code { "refund*" }
                    " a prefix, " code { "refund OR money" } " either word; " code { "-late" } " excludes a word. Without words the newest \
                     conversations are listed."
                }
            }
        }
    }
}

fn summary(parameters: &ListParameters, list: &ConversationList) -> Markup {
    let is_search = !parameters.q.trim().is_empty();
    html! {
        p.summary role="status" {
            @match (list.total, list.total_is_exact) {
                (0, true) if is_search => "Nothing was found.",
                (0, true) => "There is no such conversation.",
                (total, is_exact) => {
                    @if !is_exact { "More than " }
                    (format_number(total)) @if total == 1 { " conversation" } @else { " conversations" }
                    @if !is_exact && is_search { "; the counts are those of the first matches" }
                    @if !is_exact && !is_search { "; the counts are those of the newest" }
                }
            }
            @if !list.index_is_current {
                " The archive is not indexed yet up to its newest changes; the daemon is indexing them."
            }
        }
    }
}

fn facets_nav(parameters: &ListParameters, list: &ConversationList) -> Markup {
    html! {
        nav.facets aria-label="Filters" {
            @for (name, label) in FACETS {
                @let selected = parameters.pairs().into_iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
                @let values = list.facets.get(name).map(Vec::as_slice).unwrap_or_default();
                @if !selected.is_empty() || !values.is_empty() {
                    details open {
                        summary { (label) }
                        @if !selected.is_empty() {
                            p.selected {
                                strong { (facet_label(name, selected, list)) } " "
                                a href=(link(parameters, &[(name, ""), ("cursor", "")])) { "remove" }
                            }
                        } @else {
                            ul { @for value in values.iter().take(SHOWN_VALUES) { (facet_value(parameters, name, value, list)) } }
                            @if values.len() > SHOWN_VALUES {
                                details {
                                    summary { (values.len() - SHOWN_VALUES) " more" }
                                    ul { @for value in values.iter().skip(SHOWN_VALUES) { (facet_value(parameters, name, value, list)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn facet_value(parameters: &ListParameters, name: &str, facet: &FacetValue, list: &ConversationList) -> Markup {
    html! {
        li {
            @match &facet.value {
                Some(value) => a href=(link(parameters, &[(name, value), ("cursor", "")])) { (facet_label(name, value, list)) },
                None => span.todo { "none" },
            }
            " " span.count { (format_number(facet.count)) }
        }
    }
}

/// A value of a facet as people read it. The accounts on the page are known by name.
fn facet_label(name: &str, value: &str, list: &ConversationList) -> String {
    let named = list.items.iter().find(|item| name == "account" && item.sub_account_id == value);
    match named.and_then(|item| item.account_name.as_deref()) {
        Some(account) => clean_line(account),
        None if name == "account" => clean_line(value),
        None => display_value(&clean_line(value)).replace('_', " "),
    }
}

/// The address of a conversation: of the dialog, or of the segment without one.
fn conversation_path(parameters: &ListParameters, item: &ConversationItem) -> String {
    match &item.dialog_id {
        Some(dialog) => {
            let id: String = form_urlencoded::byte_serialize(dialog.as_bytes()).collect();
            path_with(&format!("/dialogs/{}", id.replace('+', "%20")), [("q", parameters.q.trim())])
        }
        None => {
            let ids = [("account", item.sub_account_id.as_str()), ("segment", &item.segment_id)];
            path_with("/conversation", ids.into_iter().chain([("q", parameters.q.trim())]))
        }
    }
}

fn conversation_item(parameters: &ListParameters, item: &ConversationItem) -> Markup {
    let overview = &item.overview;
    let account = item.account_name.as_deref().unwrap_or(&item.sub_account_id);
    let duration = overview.duration_ms.map(|millis| format_duration(Duration::from_millis(millis)));
    let facts: [(&str, Option<String>); 6] = [
        ("Direction", overview.direction.as_deref().map(display_value)),
        ("Channel", overview.channel.as_deref().map(display_value)),
        ("Contact", overview.contact.clone()),
        ("Duration", duration),
        ("Disposition", overview.disposition.clone()),
        ("Transcript", Some(overview.transcript.replace('_', " ")).filter(|outcome| outcome != "stored")),
    ];
    let path = conversation_path(parameters, item);
    html! {
        li {
            h3 {
                a href=(path) {
                    (local_time(time_of(item.segment_end.as_deref())))
                    @if let Some(agent) = &overview.agent { " · " (clean_line(agent)) }
                }
                " " small { (clean_line(account)) }
            }
            p.facts {
                @for (label, value) in facts.iter().filter_map(|(label, value)| Some((label, value.as_ref()?))) {
                    span { (label) ": " span dir="auto" { (clean_line(value)) } }
                }
            }
            @for hit in &item.hits { (hit_passage(&path, hit)) }
            @if item.more_hits > 0 { p.todo { "and in " (item.more_hits) " more texts" } }
        }
    }
}

fn hit_passage(path: &str, hit: &SearchHitView) -> Markup {
    html! {
        p.hit dir="auto" {
            a href={ (path) "#hit1" } {
                (hit.artifact.replace('_', " ")) @if let Some(offset) = &hit.offset { " " (offset) }
            }
            " "
            @if let Some(speaker) = &hit.speaker { span.speaker { (clean_line(speaker)) ": " } }
            (highlighted(&hit.passage, &hit.matches))
        }
    }
}

/// A passage with its matches marked, which are counted in characters.
fn highlighted(text: &str, matches: &[(usize, usize)]) -> Markup {
    let byte = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let ranges: Vec<_> = matches.iter().map(|(from, to)| byte(*from)..byte(*to)).collect();
    super::reading_page::marked(text, &ranges, |_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_marked_by_characters_and_everything_is_escaped() {
        let shown = highlighted("…<b>é refund", &[(6, 12)]).into_string();
        assert_eq!(shown, "…&lt;b&gt;é <mark>refund</mark>");
    }

    #[test]
    fn a_filter_starts_at_the_first_page() {
        let parameters = ListParameters { q: "a b".to_owned(), cursor: "x".to_owned(), ..ListParameters::default() };
        assert_eq!(link(&parameters, &[("channel", "VOICE"), ("cursor", "")]), "/conversations?q=a+b&channel=VOICE");
        assert_eq!(link(&parameters, &[("q", ""), ("cursor", "c")]), "/conversations?cursor=c");
    }
}
