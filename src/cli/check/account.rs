//! One account: asks for one metadata window, within the budgets, and drops what comes; then for one artifact of each kind,
//! of a segment that has a transcript, because each takes a permission of its own.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Line, Reach};
use crate::account::metadata_budget_name;
use crate::clock::{Clock, Time};
use crate::daemon::shared;
use crate::model::{AccountId, Artifact, ArtifactSet, SegmentRecord, Window};
use crate::ringcx::limits::{Budget, Pacer};
use crate::ringcx::{self, ApiError, Record};

/// The longest wait for a place in a budget.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a replica may be silent and still count as at work.
const ALIVE: Duration = Duration::from_secs(10);

/// How often to look whether room has been left.
const LOOK: Duration = Duration::from_millis(100);

/// So long on the machine, by this clock: the demo's runs faster, and its daemon needs the same time to answer.
fn on_machine(clock: &Clock, span: Duration) -> Duration {
    span.mul_f64(span.as_secs_f64() / clock.real(span).as_secs_f64().max(0.001))
}

/// Has the daemon that works on the account, if there is one, leave room for one more request: its own count knows nothing
/// of this process's.
///
/// # Errors
/// A line for people where it does not within [`PATIENCE`].
async fn room(reach: &Reach<'_>, id: &AccountId) -> Result<(), String> {
    let (db, clock) = (&reach.db, &reach.context.clock);
    let alive = on_machine(clock, ALIVE);
    let failed = |error: crate::db::DbError| format!("failed to ask the running daemon for room: {error}");
    let account = db.enrol(id, None, clock.now()).await.map_err(failed)?;
    let here = db.here(clock.now()).await.map_err(failed)?;
    let replicas = db.replicas().await.map_err(failed)?;
    let owner = replicas.iter().find(|replica| Some(&replica.name) == account.owner.as_ref());
    if !owner.is_some_and(|owner| owner.released.is_none() && here.since(owner.heartbeat) <= alive) {
        return db.note_use(account.key, alive, clock.now()).await.map_err(failed);
    }
    let asked = db.ask_for_room(account.key, clock.now()).await.map_err(failed)?;
    let until = clock.tick() + on_machine(clock, PATIENCE);
    while clock.tick() < until {
        if db.has_room(asked).await.map_err(failed)? {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err("not asked: the running daemon left no room in its budget in time, as it does while it is paused after a 429 or its limit is very low\nhint: look at `status`, or try again".to_owned())
}

/// Whether the server has asked to be left alone; it may have told the daemon, or one that died since.
///
/// # Errors
/// A line for people where it has.
async fn not_refused(reach: &Reach<'_>, budget: &str) -> Result<(), String> {
    let now = reach.context.clock.now();
    let refusals = reach.db.refusals(now).await;
    let refusals = refusals.map_err(|error| format!("failed to read what was refused lately: {error}"))?;
    let Some(refusal) = refusals.get(budget).filter(|refusal| refusal.until > now) else { return Ok(()) };
    let (until, wait) = (refusal.until.rfc3339_secs(), refusal.until.since(now).as_secs().saturating_add(1));
    Err(format!(
        "not asked: the daemon was refused with 429 and waits until {until} (for {wait} s)\nhint: try again then; someone else uses the account's limit as well"
    ))
}

/// An account to be checked.
pub(super) struct One {
    pub(super) id: AccountId,
    pub(super) name: Option<String>,
    /// What is asked for of each segment.
    pub(super) artifacts: ArtifactSet,
}

impl One {
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("account {} ({name})", self.id.sub),
            None => format!("account {}", self.id.sub),
        }
    }
}

/// Asks for the window that a daemon would read now, and for one artifact of each kind out of it.
pub(super) async fn check(reach: &Reach<'_>, one: &One, pacer: &Pacer, budget: &Budget) -> Vec<Line> {
    let mut sample = None;
    let mut lines = vec![metadata(reach, one, pacer, budget, &mut sample).await];
    if let Some(segment) = sample {
        for artifact in one.artifacts.iter() {
            lines.extend(permission(reach, one, pacer, &segment, artifact).await);
        }
    }
    lines
}

/// Reads one window, and takes one transcribed segment of it as a sample.
async fn metadata(
    reach: &Reach<'_>,
    one: &One,
    pacer: &Pacer,
    budget: &Budget,
    sample: &mut Option<SegmentRecord>,
) -> Line {
    let (what, id, clock) = (one.title(), &one.id, &reach.context.clock);
    match free_at(budget, clock).await {
        Ok(free) if free > clock.now() + on_machine(clock, PATIENCE) => {
            return Line::bad(&what, &used_up(free, clock.now()));
        }
        Ok(_) => {}
        Err(why) => return Line::bad(&what, &why),
    }
    let allowed = async {
        not_refused(reach, &metadata_budget_name(&id.sub)).await?;
        not_refused(reach, &shared::budget_name(&reach.settings.limits, &id.sub)).await?;
        room(reach, id).await
    };
    if let Err(why) = allowed.await {
        return Line::bad(&what, &why);
    }
    let window = window(reach.api.api_now(), reach.settings.discovery.window, reach.settings.discovery.offset);
    let (sender, mut receiver) = mpsc::channel(2);
    let asked = async {
        let permit = pacer.enter().await;
        ringcx::metadata(&reach.api, &reach.login, pacer, permit, budget, id, window, sender).await
    };
    let dropped = async {
        let mut transcribed = 0_u64;
        while let Some(batch) = receiver.recv().await {
            let segments = batch.into_iter().filter_map(transcribed_segment);
            for segment in segments {
                transcribed += 1;
                sample.get_or_insert(segment);
            }
        }
        transcribed
    };
    let (read, transcribed) = tokio::join!(asked, dropped);
    match read {
        Ok(read) => Line::good(&what, &found(read.announced, transcribed, read.aside, window)),
        Err(error) => Line::refused(&what, &error),
    }
}

/// When the metadata budget has room for one more.
async fn free_at(budget: &Budget, clock: &Clock) -> Result<Time, String> {
    let log = budget.log().await.map_err(|error| format!("failed to read the metadata budget: {error}"))?;
    Ok(budget.limits().earliest(&log, clock.now()))
}

fn used_up(free: Time, now: Time) -> String {
    format!(
        "not asked: its budget of metadata requests is used up, and free again at {} (in {} s)\nhint: try again then, or lower discovery if this is always so",
        free.rfc3339_secs(),
        free.since(now).as_secs().saturating_add(1)
    )
}

/// The window of this width that ends `offset` behind `now`, in whole seconds.
fn window(now: Time, width: Duration, offset: Duration) -> Window {
    let seconds = u32::try_from(width.as_secs()).unwrap_or(u32::MAX).max(1);
    Window { start: (now - offset).floor_secs() - i64::from(seconds), seconds }
}

fn transcribed_segment(record: Record) -> Option<SegmentRecord> {
    match record {
        Record::Segment(segment) if segment.has_transcript => Some(segment),
        _ => None,
    }
}

/// A line where the user lacks the permission for this artifact, or where that could not be seen; none where it is granted,
/// which a 404 shows as well as a body does.
async fn permission(
    reach: &Reach<'_>,
    one: &One,
    pacer: &Pacer,
    segment: &SegmentRecord,
    artifact: Artifact,
) -> Option<Line> {
    let what = format!("{}, {}", one.title(), artifact.name());
    if let Err(why) = room(reach, &one.id).await {
        return Some(Line::odd(&what, &why));
    }
    let permit = pacer.enter().await;
    let (api, login, segment_id) = (&reach.api, &reach.login, segment.segment_id.as_str());
    let dialog = segment.dialog_id.as_deref().unwrap_or_default();
    let asked = match artifact {
        Artifact::Transcript => ringcx::transcript(api, login, pacer, permit, &one.id, dialog, segment_id).await,
        summary => ringcx::summary(api, login, pacer, permit, &one.id, segment_id, summary).await,
    };
    // What passes by itself is no word about permissions; the daemon tries again.
    let lasting = |error: &ApiError| error.is_refusal() || error.is_redirect();
    asked.err().filter(lasting).map(|error| Line::refused(&what, &error))
}

fn found(announced: u64, transcribed: u64, aside: u64, window: Window) -> String {
    let mut text = format!(
        "{announced} segments ended from {} to {}, {transcribed} of them with a transcript",
        window.begin().rfc3339_secs(),
        window.end().rfc3339_secs()
    );
    if aside > 0 {
        text.push_str(&format!("; {aside} records could not be understood"));
    }
    if announced == 0 {
        text.push_str(" (none is well possible: then nobody spoke)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_ends_the_offset_behind_now_on_a_whole_second() {
        let now = Time(1_790_000_000_750);
        let window = window(now, Duration::from_secs(900), Duration::from_secs(300));
        assert_eq!(window.end(), Time::from_secs(1_789_999_700));
        assert_eq!(window.begin(), Time::from_secs(1_789_998_800));
    }

    #[test]
    fn a_used_up_budget_says_when_it_is_free_again() {
        let now = Time::from_secs(1_790_000_000);
        let line = Line::bad("account 1", &used_up(now + Duration::from_secs(40), now));
        assert!(line.found.contains("in 41 s"), "{}", line.found);
        assert!(line.hint.is_some());
    }
}
