//! The parameters of the operations, and what they mean to the reader.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::problem::Problem;
use crate::archive_reader::{AccessLogQuestion, AuditQuestion, Dimension, PageRequest, SearchQuestion, SegmentFilter};
use crate::clock::Time;
use crate::config;
use crate::model::{Artifact, ArtifactSet};
use crate::search::{DocumentSource, SortOrder};

/// Parameters with the filters of segments, and those of one operation.
macro_rules! filter_parameters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
        #[serde(deny_unknown_fields)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $name {
            /// Segments that ended at or after this time: RFC 3339, a date, or a span back from now (`7d`).
            from: Option<String>,
            /// Segments that ended before this time.
            to: Option<String>,
            /// Segments of these accounts: sub-account ids or names, separated by commas.
            account: Option<String>,
            /// The agent's participant id, or a part of a participant's name.
            agent: Option<String>,
            /// A complete telephone number, address, id or name of the contact.
            contact: Option<String>,
            /// `channelClass` or `channelType`.
            channel: Option<String>,
            /// `dialogOrigination`, such as `INBOUND`.
            direction: Option<String>,
            /// The disposition that the agent or the system set.
            disposition: Option<String>,
            /// Segments of this dialog.
            dialog: Option<String>,
            /// Segments for which these are stored: `transcript`, `agent_summary`, `auto_summary`, `recording`,
            /// separated by commas.
            has: Option<String>,
            /// Segments whose metadata or artifacts changed at or after this time.
            changed_since: Option<String>,
            $($(#[$field_doc])* $field: $type,)*
        }

        impl $name {
            /// The page that is asked for. A cursor belongs to the parameters as given: a span such as
            /// `7d` is another time in each request.
            fn page(&self, default: usize, max: usize) -> Result<PageRequest, Problem> {
                let question = $name { limit: None, cursor: None, ..self.clone() };
                let question = serde_json::to_string(&question).unwrap_or_default();
                let limit = parse_limit(self.limit, default, max)?;
                Ok(PageRequest { limit, cursor: self.cursor.clone(), question })
            }

            /// The number of items, if one was asked for.
            pub(super) fn asked_limit(&self) -> Option<usize> {
                self.limit
            }

            fn filter(&self, now: Time) -> Result<SegmentFilter, Problem> {
                let text = |value: &Option<String>| value.clone().filter(|value| !value.trim().is_empty());
                let (from, to) = parse_range(&self.from, &self.to, now)?;
                Ok(SegmentFilter {
                    from,
                    to,
                    accounts: split_list(&self.account),
                    agent: text(&self.agent),
                    contact: text(&self.contact),
                    channel: text(&self.channel),
                    direction: text(&self.direction),
                    disposition: text(&self.disposition),
                    dialog: text(&self.dialog),
                    has: parse_artifacts("has", &self.has)?,
                    changed_since: parse_time("changed_since", &self.changed_since, now)?,
                })
            }
        }
    };
}

filter_parameters! {
    /// The parameters of the list of segments.
    SegmentsParameters {
        /// Artifacts whose contents the answer has: `transcript`, `agent_summary`, `auto_summary`.
        expand: Option<String>,
        /// Segments in the answer.
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<usize>,
        /// `next` of the last answer.
        cursor: Option<String>,
    }
}

filter_parameters! {
    /// The parameters of a search.
    SearchParameters {
        /// Words, "phrases", prefixes*, -exclusions, OR, parentheses.
        q: String,
        /// Texts to search: `transcript`, `agent_summary`, `auto_summary`, `agent_notes`.
        artifact: Option<String>,
        /// `best` or `newest`.
        #[param(pattern = "^(best|newest)$")]
        sort: Option<String>,
        /// Facets with counts: `day`, `account`, `agent`, `channel`, `direction`, `disposition`.
        facets: Option<String>,
        /// Hits in the answer.
        #[param(minimum = 1, maximum = 500)]
        limit: Option<usize>,
        /// `next` of the last answer.
        cursor: Option<String>,
    }
}

impl SegmentsParameters {
    const MAX_LIMIT: usize = 1000;
    const DEFAULT_LIMIT: usize = 100;

    pub(super) fn question(&self, now: Time) -> Result<(SegmentFilter, PageRequest, ArtifactSet), Problem> {
        let page = self.page(Self::DEFAULT_LIMIT, Self::MAX_LIMIT)?;
        Ok((self.filter(now)?, page, parse_artifacts("expand", &self.expand)?))
    }
}

impl SearchParameters {
    const MAX_LIMIT: usize = 500;
    const DEFAULT_LIMIT: usize = 20;

    pub(super) fn question(&self, now: Time) -> Result<(SearchQuestion, PageRequest), Problem> {
        let page = self.page(Self::DEFAULT_LIMIT, Self::MAX_LIMIT)?;
        let order = match self.sort.as_deref() {
            None | Some("best") => SortOrder::Best,
            Some("newest") => SortOrder::Newest,
            Some(_) => return Err(Problem::bad_request("sort must be `best` or `newest`")),
        };
        let source = |name: &String| {
            let known = DocumentSource::ALL.into_iter().find(|source| source.name() == name);
            known.ok_or_else(|| {
                Problem::bad_request("artifact must be transcript, agent_summary, auto_summary or agent_notes")
            })
        };
        let facet = |name: &String| {
            Dimension::parse(name).ok_or_else(|| {
                let known = Dimension::ALL.map(|(name, _)| name).join(", ");
                Problem::bad_request(format!("facets may be {known}"))
            })
        };
        let question = SearchQuestion {
            text: self.q.clone(),
            filter: self.filter(now)?,
            sources: split_list(&self.artifact).iter().map(source).collect::<Result<_, _>>()?,
            order,
            facets: split_list(&self.facets).iter().map(facet).collect::<Result<_, _>>()?,
        };
        Ok((question, page))
    }
}

/// Of an operation without parameters: every one is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParameters {}

/// The parameters of a segment.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SegmentParameters {
    /// The account, where several have a segment with this id.
    pub(super) account: Option<String>,
    /// Artifacts whose contents the answer has: `transcript`, `agent_summary`, `auto_summary`.
    pub(super) expand: Option<String>,
}

/// The parameters of a transcript.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TranscriptParameters {
    /// The account, where several have a segment with this id.
    pub(super) account: Option<String>,
    /// The format, in place of `Accept`: `json`, `text`, `srt` or `vtt`. The answer is a file.
    #[param(pattern = "^(json|text|srt|vtt)$")]
    pub(super) format: Option<String>,
}

/// The parameters of a recording.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RecordingParameters {
    /// The account, where several have a segment with this id.
    pub(super) account: Option<String>,
}

/// The parameters of an audit.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditParameters {
    /// Segments that ended at or after this time; default: the first read of each account.
    from: Option<String>,
    /// Segments that ended before this time; default: the newest read.
    to: Option<String>,
    /// These accounts: sub-account ids or names, separated by commas.
    account: Option<String>,
}

impl AuditParameters {
    pub(super) fn question(&self, now: Time) -> Result<AuditQuestion, Problem> {
        let (from, to) = parse_range(&self.from, &self.to, now)?;
        Ok(AuditQuestion { from, to, accounts: split_list(&self.account), ..AuditQuestion::default() })
    }
}

/// The parameters of the access log.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AccessLogParameters {
    /// Entries at or after this time.
    from: Option<String>,
    /// Entries before this time.
    to: Option<String>,
    /// Entries of this reader: an e-mail address or subject, the name of a key, `http.token`, or a
    /// system user.
    who: Option<String>,
    /// Entries about this segment or its dialog, also after its erasure.
    segment: Option<String>,
    /// Entries in the answer.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `next` of the last answer.
    cursor: Option<String>,
}

impl AccessLogParameters {
    const MAX_LIMIT: usize = 500;
    const DEFAULT_LIMIT: usize = 100;

    pub(super) fn question(&self, now: Time) -> Result<(AccessLogQuestion, PageRequest), Problem> {
        let text = |value: &Option<String>| {
            value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let asked = AccessLogParameters { limit: None, cursor: None, ..self.clone() };
        let page = PageRequest {
            limit: parse_limit(self.limit, Self::DEFAULT_LIMIT, Self::MAX_LIMIT)?,
            cursor: self.cursor.clone(),
            question: serde_json::to_string(&asked).unwrap_or_default(),
        };
        let (from, to) = parse_range(&self.from, &self.to, now)?;
        Ok((AccessLogQuestion { from, to, who: text(&self.who), segment: text(&self.segment) }, page))
    }
}

/// The parameters of the feed.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FeedParameters {
    /// `next` of the last answer; `0` for everything, `newest` for what comes from now on.
    after: Option<String>,
    /// These accounts: sub-account ids or names, separated by commas.
    account: Option<String>,
    /// How long to wait if there is nothing new: `30s`, at most a minute.
    wait: Option<String>,
    /// Events in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// What is asked of the feed.
#[derive(Debug, Clone)]
pub(super) struct FeedQuestion {
    pub(super) after: String,
    pub(super) accounts: Vec<String>,
    pub(super) wait: std::time::Duration,
    pub(super) limit: usize,
}

impl FeedParameters {
    const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(60);
    const MAX_LIMIT: usize = 1000;
    const DEFAULT_LIMIT: usize = 100;

    pub(super) fn question(&self) -> Result<FeedQuestion, Problem> {
        let wait = match &self.wait {
            None => std::time::Duration::ZERO,
            Some(text) => humantime::parse_duration(text)
                .ok()
                .filter(|wait| *wait <= Self::MAX_WAIT)
                .ok_or_else(|| Problem::bad_request("wait must be a span of at most a minute, such as 30s"))?,
        };
        Ok(FeedQuestion {
            after: self.after.clone().unwrap_or_else(|| "0".to_owned()),
            accounts: split_list(&self.account),
            wait,
            limit: parse_limit(self.limit, Self::DEFAULT_LIMIT, Self::MAX_LIMIT)?,
        })
    }
}

fn parse_limit(limit: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(default);
    match (1..=max).contains(&limit) {
        true => Ok(limit),
        false => Err(Problem::bad_request(format!("limit must be between 1 and {max}"))),
    }
}

/// The parts of a list with commas.
fn split_list(text: &Option<String>) -> Vec<String> {
    let parts = text.as_deref().unwrap_or_default().split(',');
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

pub(super) fn parse_artifacts(name: &str, text: &Option<String>) -> Result<ArtifactSet, Problem> {
    split_list(text).iter().try_fold(ArtifactSet::NONE, |set, part| {
        let known = Artifact::ALL.into_iter().find(|artifact| artifact.name() == part);
        let names = Artifact::ALL.map(Artifact::name).join(", ");
        let known = known.ok_or_else(|| Problem::bad_request(format!("{name} may be {names}")))?;
        Ok(set.with(known))
    })
}

pub(in crate::http) fn parse_time(name: &str, text: &Option<String>, now: Time) -> Result<Option<Time>, Problem> {
    let parse = |text: &String| {
        config::parse_time(text, now).map_err(|why| Problem::bad_request(format!("{name} is not valid: {why}")))
    };
    text.as_ref().map(parse).transpose()
}

fn parse_range(from: &Option<String>, to: &Option<String>, now: Time) -> Result<(Option<Time>, Option<Time>), Problem> {
    let (from, to) = (parse_time("from", from, now)?, parse_time("to", to, now)?);
    match (from, to) {
        (Some(start), Some(end)) if start >= end => {
            Err(Problem::bad_request("the range of from and to is empty")
                .with_hint("from is inclusive, to is exclusive"))
        }
        range => Ok(range),
    }
}

/// The media type among `offered` that the request accepts best; the first one if it accepts any.
/// `None` if it accepts none of them.
pub(super) fn negotiate<'o>(headers: &HeaderMap, offered: &[&'o str]) -> Option<&'o str> {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let ranges: Vec<(&str, f32)> = accept.iter().flat_map(|value| value.split(',')).map(parse_media_range).collect();
    if ranges.iter().all(|(range, _)| range.is_empty()) {
        return offered.first().copied();
    }
    let quality = |media: &&str| {
        let group = media.split('/').next().unwrap_or_default();
        let specificity = |range: &str| match range {
            range if range.eq_ignore_ascii_case(media) => Some(2),
            "*/*" => Some(0),
            range => range.strip_suffix("/*").filter(|of| of.eq_ignore_ascii_case(group)).map(|_| 1),
        };
        let matching = ranges.iter().filter_map(|(range, quality)| Some((specificity(range)?, *quality)));
        matching.max_by_key(|(specificity, _)| *specificity).map_or(0.0, |(_, quality)| quality)
    };
    let mut best: Option<(&str, f32)> = None;
    for media in offered {
        let quality = quality(media);
        if quality > best.map_or(0.0, |(_, best)| best) {
            best = Some((media, quality));
        }
    }
    best.map(|(media, _)| media)
}

/// A media range without parameters, and its quality.
fn parse_media_range(range: &str) -> (&str, f32) {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=")).and_then(|quality| quality.parse().ok());
    (media, quality.unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_best_accepted_media_type_is_chosen() {
        const OFFERED: [&str; 3] = ["application/json", "text/plain", "text/vtt"];
        for (accept, expected) in [
            ("", Some("application/json")),
            ("*/*", Some("application/json")),
            ("text/*", Some("text/plain")),
            ("text/vtt", Some("text/vtt")),
            ("TEXT/vtt;q=0.5, application/json;q=0.4", Some("text/vtt")),
            ("text/html, */*;q=0.1", Some("application/json")),
            ("application/json;q=0, */*", Some("text/plain")),
            ("image/png", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(negotiate(&headers, &OFFERED), expected, "{accept}");
        }
        assert_eq!(negotiate(&HeaderMap::new(), &OFFERED), Some("application/json"));
    }
}
