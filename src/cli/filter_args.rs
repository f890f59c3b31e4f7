//! The filters that `search` and `export` share, and the segments that they select.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::erase_command::segment_progress_bar;
use super::human_format::format_count;
use super::{CommandContext, terminal};
use crate::clock::Time;
use crate::db::{AccountKey, AccountRow, Db, ExportRange, SegmentRef};
use crate::erasure::{self, SubjectSegments};
use crate::error::UserError;
use crate::model::Subject;
use crate::segment_filter::SegmentFilter;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Segments that ended at or after this time
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Segments that ended before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Only this account: its sub-account id or name
    #[arg(long, value_name = "ACCOUNT")]
    pub(crate) account: Option<String>,
    /// Only this channel: VOICE, DIGITAL, EMAIL …
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// Only this direction: INBOUND or OUTBOUND
    #[arg(long)]
    pub(crate) direction: Option<String>,
    /// Only with this agent: the participant id in RingCX, or a name in the transcript
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Only with this disposition of the agent or the system
    #[arg(long)]
    pub(crate) disposition: Option<String>,
    /// Only with this contact, as `erase --contact` finds it: a complete telephone number, address,
    /// id or name
    #[arg(long, value_name = "VALUE")]
    pub(crate) contact: Option<String>,
    /// With --contact, also possible matches: a similar number, or a speaker who may be the agent
    #[arg(long, requires = "contact")]
    pub(crate) include_alike: bool,
    /// Only this dialog
    #[arg(long, value_name = "ID")]
    pub(crate) dialog: Option<String>,
    /// Only what this legal hold protects, by its number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) hold: Option<i64>,
}

/// The filters, resolved against the database.
pub(crate) struct SelectedSegments {
    pub(crate) range: ExportRange,
    pub(crate) filter: SegmentFilter,
    /// The sub-account id of the account, if one was given.
    pub(crate) sub: Option<String>,
    /// The segments of a contact, a dialog or a hold, in the order of exports; `None` without such
    /// a filter.
    pub(crate) subject: Option<Vec<SegmentRef>>,
}

impl FilterArgs {
    /// Parses --from and --to.
    pub(crate) fn time_range(&self, context: &CommandContext) -> Result<(Option<Time>, Option<Time>), UserError> {
        context.parse_range(self.from.as_deref(), self.to.as_deref())
    }

    /// Finds the account, and the segments of contact, dialog and hold. Prints what it leaves out.
    pub(crate) async fn resolve(&self, db: &Db, context: &CommandContext) -> anyhow::Result<SelectedSegments> {
        let (from, to) = self.time_range(context)?;
        let account = context.find_account(db, self.account.as_deref()).await?;
        let sub = account.as_ref().map(|account| account.id.sub.to_string());
        let account = account.map(|account| account.key);
        let filter = SegmentFilter {
            channel: self.channel.clone(),
            direction: self.direction.clone(),
            agent: self.agent.clone(),
            disposition: self.disposition.clone(),
        };
        Ok(SelectedSegments {
            range: ExportRange { from, to, account },
            filter,
            sub,
            subject: self.find_subjects(db, account).await?,
        })
    }

    /// The filters, for the access log. A contact is not named there: the log cannot be erased.
    pub(crate) fn describe(&self) -> String {
        let hold = self.hold.map(|number| number.to_string());
        let contact = self.contact.as_ref().map(|_| "[contact]".to_owned());
        let filters = [
            ("from", &self.from),
            ("to", &self.to),
            ("channel", &self.channel),
            ("direction", &self.direction),
            ("agent", &self.agent),
            ("disposition", &self.disposition),
            ("contact", &contact),
            ("dialog", &self.dialog),
            ("hold", &hold),
        ];
        let given = filters.into_iter().filter_map(|(name, value)| Some(format!(" {name}={}", value.as_ref()?)));
        given.collect()
    }

    async fn find_subjects(&self, db: &Db, account: Option<AccountKey>) -> anyhow::Result<Option<Vec<SegmentRef>>> {
        let mut selected: Option<Vec<SegmentRef>> = None;
        if let Some(dialog) = &self.dialog {
            intersect(&mut selected, find(db, &Subject::Dialog(dialog.clone()), account).await?.segments);
        }
        if let Some(contact) = &self.contact {
            let subject = Subject::Contact(contact.clone());
            if subject.normalized().trim().is_empty() {
                return Err(UserError::usage("--contact is empty").with_hint("give the complete value").into());
            }
            let mut found = find(db, &subject, account).await?;
            if self.include_alike {
                found.segments.append(&mut found.alike);
            }
            note_left_out(&found);
            intersect(&mut selected, found.segments);
        }
        if let Some(number) = self.hold {
            let Some(hold) = db.holds(None).await?.into_iter().find(|hold| hold.id == number) else {
                let error = UserError::usage(format!("there is no hold {number}"));
                return Err(error.with_hint("`ringcx-extractor hold --list` shows all holds").into());
            };
            let mut found = find(db, &hold.subject, hold.account.or(account)).await?;
            // A hold protects possible matches, too.
            found.segments.append(&mut found.alike);
            found.segments.append(&mut found.unreadable);
            found.segments.retain(|segment| account.is_none_or(|account| segment.account == account));
            intersect(&mut selected, found.segments);
        }
        if let Some(segments) = &mut selected {
            segments.sort_by(|a, b| (a.ended, &a.sub, &a.segment_id).cmp(&(b.ended, &b.sub, &b.segment_id)));
        }
        Ok(selected)
    }
}

fn intersect(selected: &mut Option<Vec<SegmentRef>>, found: Vec<SegmentRef>) {
    match selected {
        Some(selected) => {
            let found: HashSet<i64> = found.iter().map(|segment| segment.key).collect();
            selected.retain(|segment| found.contains(&segment.key));
        }
        None => *selected = Some(found),
    }
}

async fn find(db: &Db, subject: &Subject, account: Option<AccountKey>) -> anyhow::Result<SubjectSegments> {
    let total = match subject.is_contact() {
        true => db.count_segments(ExportRange { account, ..ExportRange::default() }).await?,
        false => 0,
    };
    let bar = segment_progress_bar(total, "searching");
    let found = erasure::find_subject_segments(db, subject, account, &mut |read| bar.inc(read)).await;
    bar.finish_and_clear();
    Ok(found?)
}

/// Says what may concern the contact, too.
fn note_left_out(found: &SubjectSegments) {
    if !found.alike.is_empty() {
        terminal::print_stderr(&format!(
            "note: {} with a similar number, or a speaker who may be the agent, left out; --include-alike includes them",
            format_count(found.alike.len() as u64, "segment")
        ));
    }
    if !found.unreadable.is_empty() {
        terminal::print_stderr(&format!(
            "note: {} cannot be read and may concern this contact; `ringcx-extractor erase --contact … --dry-run` lists them",
            format_count(found.unreadable.len() as u64, "segment")
        ));
    }
}

/// The names of all accounts: that of the settings, else that of RingCX.
pub(crate) async fn account_names(db: &Db, context: &CommandContext) -> anyhow::Result<BTreeMap<AccountKey, Arc<str>>> {
    let settings = context.settings()?;
    let accounts = db.accounts().await?.into_iter();
    let name = |row: AccountRow| super::account_name(settings, &row).map(|name| (row.key, Arc::<str>::from(name)));
    Ok(accounts.filter_map(name).collect())
}
