//! Metadata, transcripts, summaries, and the list of sub-accounts.

use std::sync::Arc;

use axum::body::Bytes;
use serde::Deserialize;

use super::reply::Reply;
use super::{Call, Flow};
use crate::chance::Dice;
use crate::clock::Time;
use crate::content;
use crate::faults::Fate;
use crate::model::{Artifact, Endpoint};
use crate::options::Tokens;
use crate::segment::{Record, Segment, Version};
use crate::shared::{Announced, Shared, lock};
use crate::world::{Account, Key};

/// So many records at most go out with their length told before.
const SHORT: usize = 500;
/// So much of a long answer is made at a time.
const PIECE: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ask {
    segment_end_time: String,
    time_interval: i64,
    time_zone: String,
}

impl Call {
    pub(super) async fn metadata(&self, rc: &str, sub: &str) -> Flow {
        let endpoint = Endpoint::Metadata;
        let account = self.account(endpoint, Some(rc), sub)?;
        let (fate, mut dice) = self.shared.fate(endpoint, account.number);
        self.endure(endpoint, fate, &mut dice).await?;
        self.check_bearer(endpoint)?;
        self.check_permission(endpoint, &account, None)?;
        let now = self.shared.now();
        let (from, to) = self.read_window(now).map_err(|why| {
            self.violation(format!("metadata: {why}"));
            self.error(Some(endpoint), 400, "bad.request", "The supplied data is not valid")
        })?;
        let records = Records::find(&self.shared, &account, (from, to), now, &mut dice);
        Ok(Reply::records(records).suffer(fate, &mut dice))
    }

    /// The window asked for, or what is wrong with it.
    fn read_window(&self, now: Time) -> Result<(Time, Time), String> {
        let media = self.header("content-type").unwrap_or("");
        if !media.starts_with("application/json") {
            return Err(format!("content type \"{media}\""));
        }
        let ask: Ask = serde_json::from_slice(&self.body).map_err(|error| error.to_string())?;
        let rules = self.shared.options.windows;
        if ask.time_zone != "UTC" {
            return Err(format!("timeZone \"{}\"", ask.time_zone));
        }
        let from = parse_wall_clock(&ask.segment_end_time)
            .ok_or_else(|| format!("segmentEndTime \"{}\"", ask.segment_end_time))?;
        if !(1..=i64::from(rules.widest)).contains(&ask.time_interval) {
            return Err(format!("timeInterval {}", ask.time_interval));
        }
        let to = from.plus_millis(ask.time_interval * 1000);
        if to > now - rules.offset && !rules.answers_future {
            let early = to.since(now - rules.offset);
            return Err(format!("the window ends {early:?} later than {:?} before now", rules.offset));
        }
        Ok((from, to))
    }

    pub(super) async fn transcript(&self, rc: &str, sub: &str, dialog: &str, id: &str) -> Flow {
        let endpoint = Endpoint::Transcript;
        let account = self.account(endpoint, Some(rc), sub)?;
        let segment = self.shared.world.by_id(&account, id);
        let (fate, mut dice) = self.item_fate(endpoint, &account, segment.as_deref(), Artifact::Transcript);
        self.endure(endpoint, fate, &mut dice).await?;
        self.check_bearer(endpoint)?;
        self.check_permission(endpoint, &account, Some(id))?;
        let segment = self.announced(endpoint, segment, id)?;
        if segment.dialog_id.as_deref() != Some(dialog) {
            self.violation(format!("transcript: segment {id} is not of dialog {dialog}"));
            return Err(self.not_found(endpoint));
        }
        let body = self.artifact(endpoint, &segment, Artifact::Transcript)?;
        if fate == Fate::ErrorCode {
            let body = "{\"channelClass\":null,\"errorCode\":\"TRANSCRIPT_FETCH_FAILED\",\
                        \"errorMessage\":\"try again\",\"transcript\":null}";
            return Ok(Reply::json(Some(endpoint), 200, body));
        }
        self.note_served(&segment, Artifact::Transcript, fate);
        Ok(Reply::json(Some(endpoint), 200, body).suffer(fate, &mut dice))
    }

    pub(super) async fn summary(&self, sub: &str, id: &str, endpoint: Endpoint) -> Flow {
        let artifact = if endpoint == Endpoint::AgentSummary { Artifact::AgentSummary } else { Artifact::AutoSummary };
        let account = self.account(endpoint, None, sub)?;
        let segment = self.shared.world.by_id(&account, id);
        let (fate, mut dice) = self.item_fate(endpoint, &account, segment.as_deref(), artifact);
        let fate = if fate == Fate::ErrorCode { Fate::Status(500) } else { fate };
        self.endure(endpoint, fate, &mut dice).await?;
        self.check_cookie(endpoint)?;
        self.check_permission(endpoint, &account, Some(id))?;
        let segment = self.announced(endpoint, segment, id)?;
        let body = self.artifact(endpoint, &segment, artifact)?;
        self.note_served(&segment, artifact, fate);
        if fate == Fate::Malformed {
            // Nearly any text is a summary: what is not must be a page, or JSON without its end.
            let is_json = serde_json::from_slice::<String>(&body).is_ok();
            let page = "<!-- gateway --><html><body>Please log in</body></html>";
            return Ok(match is_json {
                true => Reply::json(Some(endpoint), 200, body).suffer(fate, &mut dice),
                false => Reply::html(Some(endpoint), 200, page),
            });
        }
        if let Some((media, body)) = content::in_charset(&segment, &body, &self.shared.world.traffic) {
            return Ok(Reply::text_as(Some(endpoint), 200, media, body).suffer(fate, &mut dice));
        }
        let json = segment.seed.is_multiple_of(2) || body.starts_with(b"\"");
        let reply = if json { Reply::json } else { Reply::text };
        Ok(reply(Some(endpoint), 200, body).suffer(fate, &mut dice))
    }

    fn item_fate(
        &self,
        endpoint: Endpoint,
        account: &Account,
        segment: Option<&Segment>,
        artifact: Artifact,
    ) -> (Fate, Dice) {
        match segment {
            Some(segment) => self.shared.item_fate(segment, artifact),
            None => self.shared.fate(endpoint, account.number),
        }
    }

    /// A segment that its asker can know of.
    fn announced(&self, endpoint: Endpoint, segment: Option<Arc<Segment>>, id: &str) -> Result<Arc<Segment>, Reply> {
        let now = self.shared.now();
        segment.filter(|segment| segment.appears <= now).ok_or_else(|| {
            self.violation(format!("{endpoint}: no such segment: {id}"));
            self.not_found(endpoint)
        })
    }

    fn artifact(&self, endpoint: Endpoint, segment: &Segment, artifact: Artifact) -> Result<Bytes, Reply> {
        let now = self.shared.now();
        if artifact == Artifact::Transcript && segment.flag_at.is_none_or(|at| now < at) {
            return Err(self.not_found(endpoint));
        }
        match segment.plans[artifact.code() as usize].at(now) {
            Some(content) => Ok(segment.body(&self.shared.world, artifact, content)),
            None if artifact == Artifact::Transcript
                && content::is_empty_at_first(segment, &self.shared.world.traffic) =>
            {
                let body = Dice::new(segment.seed, &[16]).pick(&["[]", "null"]);
                Err(Reply::json(Some(endpoint), 200, format!("{{\"channelClass\":\"VOICE\",\"transcript\":{body}}}")))
            }
            None => Err(self.not_found(endpoint)),
        }
    }

    /// Counts an artifact that goes out whole and in time.
    fn note_served(&self, segment: &Segment, artifact: Artifact, fate: Fate) {
        if fate == Fate::None {
            lock(&self.shared.book).items.entry((segment.key, artifact)).or_default().served += 1;
        }
    }

    pub(super) async fn accounts(&self) -> Flow {
        let endpoint = Endpoint::Accounts;
        self.arrived(endpoint);
        let (fate, mut dice) = self.shared.fate(endpoint, 0);
        self.endure(endpoint, fate, &mut dice).await?;
        self.check_bearer(endpoint)?;
        if self.shared.faults().forbidden.iter().any(|rule| rule.endpoint == Some(endpoint)) {
            return Err(self.error(Some(endpoint), 403, "access.denied.exception", "Access is denied."));
        }
        let all: Vec<Arc<Account>> = self.shared.world.accounts();
        let seen = all.iter().filter(|account| !self.shared.is_hidden(account));
        let list: Vec<serde_json::Value> = seen.map(|account| self.account_entry(account)).collect();
        let body = serde_json::Value::from(list).to_string();
        Ok(Reply::json(Some(endpoint), 200, body).suffer(fate, &mut dice))
    }

    fn account_entry(&self, account: &Account) -> serde_json::Value {
        let days = self.shared.options.retention_days;
        let mut entry = serde_json::json!({
            "accountId": &*account.id.sub,
            "accountName": format!("Simulated {}", account.number + 1),
            "dataRetentionDays": days,
            "mainAccountId": "1000017",
            "mainAccountName": "Simulated main",
            "pciCompliance": false,
        });
        if !self.shared.options.short_account_list {
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

    pub(super) async fn rc_account(&self) -> Flow {
        let endpoint = Endpoint::Accounts;
        self.arrived(endpoint);
        let (fate, mut dice) = self.shared.fate(endpoint, 1);
        self.endure(endpoint, fate, &mut dice).await?;
        self.check_rc_token(endpoint)?;
        if !has_scope(&self.shared.options.tokens) {
            return Err(self.error(
                Some(endpoint),
                403,
                "CMN-401",
                "In order to call this API endpoint, \
                application needs to have [ReadAccounts] permission",
            ));
        }
        let first = self.shared.world.accounts().first().map(|account| account.id.rc.to_string());
        let id = first.unwrap_or_default();
        // A number, where it can be one, as the platform sends it.
        let id = id.parse::<u64>().map_or(serde_json::Value::from(id), serde_json::Value::from);
        let body = serde_json::json!({ "uri": "/restapi/v1.0/account/~", "id": id, "status": "Confirmed" });
        Ok(Reply::json(Some(endpoint), 200, body.to_string()).suffer(fate, &mut dice))
    }
}

/// Whether an exchange may succeed at all.
pub(super) fn has_scope(tokens: &Tokens) -> bool {
    tokens.scope.split([' ', ',']).any(|scope| scope == "ReadAccounts")
}

/// `YYYY-MM-DD HH:mm:ss`, and nothing else.
fn parse_wall_clock(text: &str) -> Option<Time> {
    const SHAPE: &[u8] = b"0000-00-00 00:00:00";
    let fits = |(byte, shape): (u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == *shape };
    if text.len() != SHAPE.len() || !text.bytes().zip(SHAPE).all(fits) {
        return None;
    }
    Time::parse(&format!("{}Z", text.replace(' ', "T")))
}

/// The elements of one metadata answer, made as they go out.
pub(super) struct Records {
    keys: Vec<(Time, Key)>,
    position: usize,
    now: Time,
    /// Which one is mangled.
    mangled: Option<usize>,
    /// After which one there is something that is none.
    junk: Option<usize>,
    dice: Dice,
    announces: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    Within,
    Over,
}

impl Records {
    fn find(shared: &Shared, account: &Account, span: (Time, Time), now: Time, dice: &mut Dice) -> Records {
        let edges = shared.options.windows.edges;
        let keys = shared.world.find(account, span.0, span.1, edges, now);
        let faults = shared.faults();
        let (mangles, junks) = (dice.hit(faults.mangled_records), dice.hit(faults.junk_records));
        let (mangled, junk) = (dice.below(keys.len() as u64) as usize, dice.below(keys.len() as u64) as usize);
        Records {
            mangled: (mangles && !keys.is_empty()).then_some(mangled),
            junk: (junks && !keys.is_empty()).then_some(junk),
            keys,
            position: 0,
            now,
            dice: dice.clone(),
            announces: true,
            state: State::Before,
        }
    }

    /// The answer will not arrive, so it tells nobody anything.
    pub(super) fn announce_nothing(&mut self) {
        self.announces = false;
    }

    pub(super) fn is_short(&self) -> bool {
        self.keys.len() <= SHORT
    }

    /// All of it at once.
    pub(super) fn all(&mut self, shared: &Shared) -> Bytes {
        let mut out = Vec::new();
        while let Some(piece) = self.next(shared) {
            out.extend_from_slice(&piece);
        }
        Bytes::from(out)
    }

    /// What a broken-off answer still brings.
    pub(super) fn part(&mut self, shared: &Shared) -> Bytes {
        let piece = self.next(shared).unwrap_or_default();
        piece.slice(..piece.len() - piece.len() / 3)
    }

    /// The next piece.
    pub(super) fn next(&mut self, shared: &Shared) -> Option<Bytes> {
        if self.state == State::Over {
            return None;
        }
        let mut out = String::with_capacity(PIECE + 4096);
        if self.state == State::Before {
            out.push('[');
            self.state = State::Within;
        }
        let mut told = Vec::new();
        while out.len() < PIECE && self.position < self.keys.len() {
            self.write_one(shared, &mut out, &mut told);
            self.position += 1;
        }
        if self.position == self.keys.len() {
            out.push(']');
            self.state = State::Over;
        }
        if self.announces {
            self.note(shared, &told);
        }
        Some(Bytes::from(out))
    }

    fn write_one(&mut self, shared: &Shared, out: &mut String, told: &mut Vec<Arc<Segment>>) {
        let Some(segment) = shared.world.segment(self.keys[self.position].1) else { return };
        let mut write = |text: &str| {
            if !out.ends_with('[') || out.len() > 1 {
                out.push(',');
            }
            out.push_str(text);
        };
        if self.mangled == Some(self.position) {
            write(&content::mangled(&segment, &mut self.dice));
        } else {
            let text = record_text(shared, &segment, segment.version(self.now));
            write(&text);
            if Dice::new(segment.seed, &[32]).hit(shared.world.traffic.duplicates) {
                write(&text);
            }
            if !matches!(segment.record, Record::Malformed(_)) {
                told.push(segment);
            }
        }
        if self.junk == Some(self.position) {
            write(content::junk(&mut self.dice));
        }
    }

    fn note(&self, shared: &Shared, told: &[Arc<Segment>]) {
        let mut book = lock(&shared.book);
        for segment in told {
            let version = segment.version(self.now);
            let fresh = Announced { first: self.now, version, ever_transcribed: false };
            let entry = book.announced.entry(segment.key).or_insert(fresh);
            entry.version = version;
            entry.ever_transcribed |= version.transcribed;
        }
    }
}

/// A version of a record as it is served.
pub(crate) fn record_text(shared: &Shared, segment: &Segment, version: Version) -> String {
    match &segment.record {
        Record::Generated => content::record(segment, version, &shared.world.traffic),
        Record::Raw(text) | Record::Malformed(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_of_a_time_is_understood() {
        assert_eq!(parse_wall_clock("2024-07-22 11:24:47"), Time::parse("2024-07-22T11:24:47Z"));
        for wrong in ["2024-07-22T11:24:47", "2024-7-22 11:24:47", "2024-07-22 11:24:47.0", "2024-02-30 00:00:00", ""] {
            assert_eq!(parse_wall_clock(wrong), None, "{wrong}");
        }
    }
}
