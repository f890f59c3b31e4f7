//! The data endpoints: metadata, transcripts, summaries, and the list of sub-accounts.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde::Deserialize;

use super::reply::SimulatedReply;
use super::{HandlerResult, IncomingRequest};
use crate::clock::Time;
use crate::content;
use crate::faults::InjectedFault;
use crate::model::{Artifact, Endpoint};
use crate::options::TokenSettings;
use crate::recording_audio::RecordingAudio;
use crate::rng::Rng;
use crate::simulated_tenant::{SegmentPosition, SimulatedAccount};
use crate::simulator_state::{Announcement, SimulatorState};
use crate::tenant_segment::{BodySource, RecordSource, RecordVersion, TenantSegment};

/// Answers with at most this many records are sent with their length.
const MAX_RECORDS_WITH_LENGTH: usize = 500;
/// The size of the chunks of a longer answer.
const CHUNK_BYTES: usize = 64 * 1024;
/// A recording is there some 15 minutes after its segment's end (contract.md, Recordings). Clocks may differ.
const EARLIEST_RECORDING: Duration = Duration::from_secs(14 * 60);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MetadataQuery {
    segment_end_time: String,
    time_interval: i64,
    time_zone: String,
}

impl IncomingRequest {
    pub(super) async fn handle_metadata(&self, rc: &str, sub: &str) -> HandlerResult {
        let endpoint = Endpoint::Metadata;
        let account = self.admit_to_account(endpoint, Some(rc), sub)?;
        let (fault, mut rng) = self.state.draw_fault(endpoint, account.number);
        self.inject_fault(endpoint, fault, &mut rng).await?;
        self.check_bearer(endpoint)?;
        self.check_permission(endpoint, &account, None)?;
        let now = self.state.now();
        let (from, to) = self.parse_window(now).map_err(|why| {
            self.record_violation(format!("metadata: {why}"));
            self.error_reply(Some(endpoint), 400, "bad.request", "The supplied data is not valid")
        })?;
        let records = RecordStream::find(&self.state, &account, (from, to), now, &mut rng);
        Ok(SimulatedReply::records(records).apply_fault(fault, &mut rng))
    }

    /// Parses the requested window, or describes its violation.
    fn parse_window(&self, now: Time) -> Result<(Time, Time), String> {
        let media = self.header("content-type").unwrap_or("");
        if !media.starts_with("application/json") {
            return Err(format!("content type \"{media}\""));
        }
        let query: MetadataQuery = serde_json::from_slice(&self.body).map_err(|error| error.to_string())?;
        let rules = self.state.options.windows;
        if query.time_zone != "UTC" {
            return Err(format!("timeZone \"{}\"", query.time_zone));
        }
        let from = parse_wall_clock(&query.segment_end_time)
            .ok_or_else(|| format!("segmentEndTime \"{}\"", query.segment_end_time))?;
        if !(1..=i64::from(rules.max_interval_secs)).contains(&query.time_interval) {
            return Err(format!("timeInterval {}", query.time_interval));
        }
        let to = from.plus_millis(query.time_interval * 1000);
        if to > now - rules.offset && !rules.answers_future {
            let excess = to.since(now - rules.offset);
            return Err(format!("the window ends {excess:?} later than {:?} before now", rules.offset));
        }
        Ok((from, to))
    }

    pub(super) async fn handle_transcript(&self, rc: &str, sub: &str, dialog: &str, id: &str) -> HandlerResult {
        let endpoint = Endpoint::Transcript;
        let account = self.admit_to_account(endpoint, Some(rc), sub)?;
        let segment = self.state.tenant.segment_by_id(&account, id);
        let (fault, mut rng) = self.draw_artifact_fault(endpoint, &account, segment.as_deref(), Artifact::Transcript);
        self.inject_fault(endpoint, fault, &mut rng).await?;
        self.check_bearer(endpoint)?;
        self.check_permission(endpoint, &account, Some(id))?;
        let segment = self.require_announced(endpoint, segment, id)?;
        if segment.dialog_id.as_deref() != Some(dialog) {
            self.record_violation(format!("transcript: segment {id} is not of dialog {dialog}"));
            return Err(self.not_found_reply(endpoint));
        }
        let body = self.artifact_body(endpoint, &segment, Artifact::Transcript)?;
        if fault == InjectedFault::ErrorCode {
            let body = "{\"channelClass\":null,\"errorCode\":\"TRANSCRIPT_FETCH_FAILED\",\
                        \"errorMessage\":\"try again\",\"transcript\":null}";
            return Ok(SimulatedReply::json(Some(endpoint), 200, body));
        }
        self.record_served(&segment, Artifact::Transcript, fault);
        Ok(SimulatedReply::json(Some(endpoint), 200, body).apply_fault(fault, &mut rng))
    }

    pub(super) async fn handle_summary(&self, sub: &str, id: &str, endpoint: Endpoint) -> HandlerResult {
        let artifact = if endpoint == Endpoint::AgentSummary { Artifact::AgentSummary } else { Artifact::AutoSummary };
        let account = self.admit_to_account(endpoint, None, sub)?;
        let segment = self.state.tenant.segment_by_id(&account, id);
        let (fault, mut rng) = self.draw_artifact_fault(endpoint, &account, segment.as_deref(), artifact);
        let fault = if fault == InjectedFault::ErrorCode { InjectedFault::Status(500) } else { fault };
        self.inject_fault(endpoint, fault, &mut rng).await?;
        self.check_cookie(endpoint)?;
        self.check_permission(endpoint, &account, Some(id))?;
        let segment = self.require_announced(endpoint, segment, id)?;
        let body = self.artifact_body(endpoint, &segment, artifact)?;
        self.record_served(&segment, artifact, fault);
        if fault == InjectedFault::Malformed {
            // Nearly any text is a summary, so a malformed one is a web page or truncated JSON.
            let is_json = serde_json::from_slice::<String>(&body).is_ok();
            let page = "<!-- gateway --><html><body>Please log in</body></html>";
            return Ok(match is_json {
                true => SimulatedReply::json(Some(endpoint), 200, body).apply_fault(fault, &mut rng),
                false => SimulatedReply::html(Some(endpoint), 200, page),
            });
        }
        if let Some((media, body)) = content::encode_in_charset(&segment, &body, &self.state.tenant.traffic) {
            return Ok(
                SimulatedReply::text_with_media_type(Some(endpoint), 200, media, body).apply_fault(fault, &mut rng)
            );
        }
        let json = segment.seed.is_multiple_of(2) || body.starts_with(b"\"");
        let reply = if json { SimulatedReply::json } else { SimulatedReply::text };
        Ok(reply(Some(endpoint), 200, body).apply_fault(fault, &mut rng))
    }

    pub(super) async fn handle_recording(&self, rc: &str, sub: &str, dialog: &str, id: &str) -> HandlerResult {
        let endpoint = Endpoint::Recording;
        let account = self.admit_to_account(endpoint, Some(rc), sub)?;
        let segment = self.state.tenant.segment_by_id(&account, id);
        let (fault, mut rng) = self.draw_artifact_fault(endpoint, &account, segment.as_deref(), Artifact::Recording);
        self.inject_fault(endpoint, fault, &mut rng).await?;
        self.check_bearer(endpoint)?;
        self.check_permission(endpoint, &account, Some(id))?;
        let segment = self.require_announced(endpoint, segment, id)?;
        if segment.dialog_id.as_deref() != Some(dialog) {
            self.record_violation(format!("recording: segment {id} is not of dialog {dialog}"));
            return Err(self.not_found_reply(endpoint));
        }
        if !matches!(self.header("accept"), Some("audio/wav" | "audio/mpeg")) {
            self.record_violation(format!("recording: Accept \"{}\"", self.header("accept").unwrap_or("")));
        }
        let now = self.state.now();
        if !segment.has_recording() {
            self.record_violation(format!("recording: segment {id} has none"));
            return Err(self.not_found_reply(endpoint));
        }
        if now.since(segment.indexed_end) < EARLIEST_RECORDING {
            self.record_violation(format!("recording: segment {id} ended less than {EARLIEST_RECORDING:?} ago"));
        }
        let plan = &segment.plans[Artifact::Recording.code() as usize];
        let audio = match plan.source_at(now).ok_or_else(|| self.not_found_reply(endpoint))? {
            BodySource::Generated(seed) | BodySource::GeneratedJson(seed) => {
                RecordingAudio::generated(*seed, &self.state.tenant.traffic)
            }
            BodySource::Fixed(body) | BodySource::ErrorCode(body) => RecordingAudio::fixed(body.clone()),
        };
        if fault == InjectedFault::ErrorCode {
            let code = r#"{"errorCode":"recording.not.ready","generalMessage":"try again"}"#;
            let body = if rng.random_bool(0.5) { code } else { r#"{"generalMessage":"try again"}"# };
            return Ok(SimulatedReply::json(Some(endpoint), 200, body));
        }
        let stalls = rng.random_bool(self.state.faults().stalled_recordings);
        let fault = if stalls && fault == InjectedFault::None { InjectedFault::Slow(Duration::MAX) } else { fault };
        self.record_served(&segment, Artifact::Recording, fault);
        Ok(SimulatedReply::audio(audio, stalls).apply_fault(fault, &mut rng))
    }

    fn draw_artifact_fault(
        &self,
        endpoint: Endpoint,
        account: &SimulatedAccount,
        segment: Option<&TenantSegment>,
        artifact: Artifact,
    ) -> (InjectedFault, Rng) {
        match segment {
            Some(segment) => self.state.draw_artifact_fault(segment, artifact),
            None => self.state.draw_fault(endpoint, account.number),
        }
    }

    /// The segment, if the client can know it.
    fn require_announced(
        &self,
        endpoint: Endpoint,
        segment: Option<Arc<TenantSegment>>,
        id: &str,
    ) -> Result<Arc<TenantSegment>, SimulatedReply> {
        let now = self.state.now();
        segment.filter(|segment| segment.appears_at <= now).ok_or_else(|| {
            self.record_violation(format!("{endpoint}: no such segment: {id}"));
            self.not_found_reply(endpoint)
        })
    }

    fn artifact_body(
        &self,
        endpoint: Endpoint,
        segment: &TenantSegment,
        artifact: Artifact,
    ) -> Result<Bytes, SimulatedReply> {
        let now = self.state.now();
        if artifact == Artifact::Transcript && segment.transcribed_at.is_none_or(|at| now < at) {
            return Err(self.not_found_reply(endpoint));
        }
        match segment.plans[artifact.code() as usize].source_at(now) {
            Some(source) => Ok(segment.render_body(&self.state.tenant, artifact, source)),
            None if artifact == Artifact::Transcript
                && content::is_empty_until_available(segment, &self.state.tenant.traffic) =>
            {
                let body = Rng::new(segment.seed, &[16]).choose(&["[]", "null"]);
                Err(SimulatedReply::json(
                    Some(endpoint),
                    200,
                    format!("{{\"channelClass\":\"VOICE\",\"transcript\":{body}}}"),
                ))
            }
            None => Err(self.not_found_reply(endpoint)),
        }
    }

    /// Counts an artifact that is served completely and in time.
    fn record_served(&self, segment: &TenantSegment, artifact: Artifact, fault: InjectedFault) {
        if fault == InjectedFault::None {
            self.state.request_log.lock().artifacts.entry((segment.position, artifact)).or_default().served += 1;
        }
    }

    pub(super) async fn handle_accounts(&self) -> HandlerResult {
        let endpoint = Endpoint::Accounts;
        self.count_request(endpoint);
        let (fault, mut rng) = self.state.draw_fault(endpoint, 0);
        self.inject_fault(endpoint, fault, &mut rng).await?;
        self.check_bearer(endpoint)?;
        if self.state.faults().forbidden.iter().any(|rule| rule.endpoint == Some(endpoint)) {
            return Err(self.error_reply(Some(endpoint), 403, "access.denied.exception", "Access is denied."));
        }
        let all: Vec<Arc<SimulatedAccount>> = self.state.tenant.accounts();
        let seen = all.iter().filter(|account| !self.state.is_hidden(account));
        let list: Vec<serde_json::Value> = seen.map(|account| self.account_entry(account)).collect();
        let body = serde_json::Value::from(list).to_string();
        Ok(SimulatedReply::json(Some(endpoint), 200, body).apply_fault(fault, &mut rng))
    }

    fn account_entry(&self, account: &SimulatedAccount) -> serde_json::Value {
        let days = self.state.options.retention_days;
        let mut entry = serde_json::json!({
            "accountId": &*account.id.sub,
            "accountName": format!("Simulated {}", account.number + 1),
            "dataRetentionDays": days,
            "mainAccountId": "1000017",
            "mainAccountName": "Simulated main",
            "pciCompliance": false,
        });
        if !self.state.options.short_account_list {
            entry["mainAccount"] = serde_json::json!({
                "mainAccountId": "1000017",
                "mainAccountName": "Simulated main",
                "rcAccountId": &*account.id.rc,
                "dataRetentionDays": days,
                "isActive": 1,
            });
        }
        entry
    }

    pub(super) async fn handle_rc_account(&self) -> HandlerResult {
        let endpoint = Endpoint::Accounts;
        self.count_request(endpoint);
        let (fault, mut rng) = self.state.draw_fault(endpoint, 1);
        self.inject_fault(endpoint, fault, &mut rng).await?;
        self.check_rc_token(endpoint)?;
        if !has_required_scope(&self.state.options.tokens) {
            return Err(self.error_reply(
                Some(endpoint),
                403,
                "CMN-401",
                "In order to call this API endpoint, \
                application needs to have [ReadAccounts] permission",
            ));
        }
        let first = self.state.tenant.accounts().first().map(|account| account.id.rc.to_string());
        let id = first.unwrap_or_default();
        // A number if possible, as the platform sends it.
        let id = id.parse::<u64>().map_or(serde_json::Value::from(id), serde_json::Value::from);
        let body = serde_json::json!({ "uri": "/restapi/v1.0/account/~", "id": id, "status": "Confirmed" });
        Ok(SimulatedReply::json(Some(endpoint), 200, body.to_string()).apply_fault(fault, &mut rng))
    }
}

/// Whether RingCentral tokens have the scope that an exchange requires.
pub(super) fn has_required_scope(tokens: &TokenSettings) -> bool {
    tokens.scope.split([' ', ',']).any(|scope| scope == "ReadAccounts")
}

/// Parses exactly `YYYY-MM-DD HH:mm:ss`.
fn parse_wall_clock(text: &str) -> Option<Time> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape };
    if text.len() != SHAPE.len() || !text.bytes().zip(SHAPE).all(fits) {
        return None;
    }
    Time::parse(&format!("{}Z", text.replace(' ', "T")))
}

/// The elements of one metadata answer, generated while it is sent.
pub(super) struct RecordStream {
    positions: Vec<(Time, SegmentPosition)>,
    next_index: usize,
    now: Time,
    /// The index of the mangled record.
    mangled: Option<usize>,
    /// The index of the record before the element that is no record.
    junk: Option<usize>,
    rng: Rng,
    is_announcing: bool,
    state: RecordStreamState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordStreamState {
    NotStarted,
    Streaming,
    Finished,
}

impl RecordStream {
    fn find(
        state: &SimulatorState,
        account: &SimulatedAccount,
        span: (Time, Time),
        now: Time,
        rng: &mut Rng,
    ) -> RecordStream {
        let edges = state.options.windows.edges;
        let positions = state.tenant.find_segments(account, span.0, span.1, edges, now);
        let faults = state.faults();
        let (has_mangled, has_junk) = (rng.random_bool(faults.mangled_records), rng.random_bool(faults.junk_records));
        let (mangled, junk) =
            (rng.random_below(positions.len() as u64) as usize, rng.random_below(positions.len() as u64) as usize);
        RecordStream {
            mangled: (has_mangled && !positions.is_empty()).then_some(mangled),
            junk: (has_junk && !positions.is_empty()).then_some(junk),
            positions,
            next_index: 0,
            now,
            rng: rng.clone(),
            is_announcing: true,
            state: RecordStreamState::NotStarted,
        }
    }

    /// Announces nothing, because the answer will not arrive completely.
    pub(super) fn suppress_announcement(&mut self) {
        self.is_announcing = false;
    }

    pub(super) fn is_short(&self) -> bool {
        self.positions.len() <= MAX_RECORDS_WITH_LENGTH
    }

    /// The whole answer.
    pub(super) fn read_all(&mut self, state: &SimulatorState) -> Bytes {
        let mut out = Vec::new();
        while let Some(chunk) = self.next_chunk(state) {
            out.extend_from_slice(&chunk);
        }
        Bytes::from(out)
    }

    /// The part of a truncated answer that is sent.
    pub(super) fn read_truncated(&mut self, state: &SimulatorState) -> Bytes {
        let chunk = self.next_chunk(state).unwrap_or_default();
        chunk.slice(..chunk.len() - chunk.len() / 3)
    }

    /// The next chunk.
    pub(super) fn next_chunk(&mut self, state: &SimulatorState) -> Option<Bytes> {
        if self.state == RecordStreamState::Finished {
            return None;
        }
        let mut out = String::with_capacity(CHUNK_BYTES + 4096);
        if self.state == RecordStreamState::NotStarted {
            out.push('[');
            self.state = RecordStreamState::Streaming;
        }
        let mut announced = Vec::new();
        while out.len() < CHUNK_BYTES && self.next_index < self.positions.len() {
            self.write_record(state, &mut out, &mut announced);
            self.next_index += 1;
        }
        if self.next_index == self.positions.len() {
            out.push(']');
            self.state = RecordStreamState::Finished;
        }
        if self.is_announcing {
            self.record_announced(state, &announced);
        }
        Some(Bytes::from(out))
    }

    fn write_record(&mut self, state: &SimulatorState, out: &mut String, announced: &mut Vec<Arc<TenantSegment>>) {
        let Some(segment) = state.tenant.segment(self.positions[self.next_index].1) else { return };
        let mut write = |text: &str| {
            if !out.ends_with('[') || out.len() > 1 {
                out.push(',');
            }
            out.push_str(text);
        };
        if self.mangled == Some(self.next_index) {
            write(&content::generate_mangled_record(&segment, &mut self.rng));
        } else {
            let text = record_text(state, &segment, segment.version_at(self.now));
            write(&text);
            if Rng::new(segment.seed, &[32]).random_bool(state.tenant.traffic.duplicates) {
                write(&text);
            }
            if !matches!(segment.record_source, RecordSource::Malformed(_)) {
                announced.push(segment);
            }
        }
        if self.junk == Some(self.next_index) {
            write(content::draw_junk_element(&mut self.rng));
        }
    }

    fn record_announced(&self, state: &SimulatorState, announced: &[Arc<TenantSegment>]) {
        let mut request_log = state.request_log.lock();
        for segment in announced {
            let version = segment.version_at(self.now);
            let first_announcement = Announcement { first_at: self.now, version, was_transcribed: false };
            let entry = request_log.announced.entry(segment.position).or_insert(first_announcement);
            entry.version = version;
            entry.was_transcribed |= version.is_transcribed;
        }
    }
}

/// The text of a version of a record.
pub(crate) fn record_text(state: &SimulatorState, segment: &TenantSegment, version: RecordVersion) -> String {
    match &segment.record_source {
        RecordSource::Generated => content::generate_record(segment, version, &state.tenant.traffic),
        RecordSource::Raw(text) | RecordSource::Malformed(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_of_a_time_is_accepted() {
        assert_eq!(parse_wall_clock("2024-07-22 11:24:47"), Time::parse("2024-07-22T11:24:47Z"));
        for wrong in ["2024-07-22T11:24:47", "2024-7-22 11:24:47", "2024-07-22 11:24:47.0", "2024-02-30 00:00:00", ""] {
            assert_eq!(parse_wall_clock(wrong), None, "{wrong}");
        }
    }
}
