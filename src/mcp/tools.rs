//! The tools: each asks the reader, and fits the answer into its budget.

use serde_json::{Value, json};

use super::answers::{BudgetedList, mark_cut, shorten};
use super::arguments::{
    CompletenessArguments, ConversationArguments, ConversationId, CountArguments, ListAccountsArguments,
    SearchArguments,
};
use crate::access::Caller;
use crate::archive_reader::{AccountView, ArchiveReader, DialogView, ReadError, SearchHitView, format_offset};
use crate::clock::Time;
use crate::export::{SegmentEntry, recording_of, summary_text_of};
use crate::render::{Metadata, clean_text};

/// Problems of an audit that are listed.
const MAX_PROBLEMS: usize = 50;

pub(super) async fn list_accounts(
    reader: &ArchiveReader,
    caller: &Caller,
    arguments: &ListAccountsArguments,
) -> Result<Value, ReadError> {
    let accounts = reader.accounts(caller).await?;
    let mut list = BudgetedList::new(arguments.byte_budget(), 200);
    let line = |account: &AccountView| {
        json!({
            "account": account.sub_account_id,
            "name": account.name,
            "state": account.state,
            "read_up_to": account.watermark,
            "lag_seconds": account.lag_seconds,
        })
    };
    let _all_fit = accounts.iter().all(|account| list.push(line(account)));
    let (is_cut, total) = (list.is_cut(), accounts.len());
    let mut answer = json!({ "total": total, "accounts": list.into_items(), "cut": false });
    if is_cut {
        mark_cut(&mut answer, "raise max_tokens to get all accounts");
    }
    Ok(answer)
}

pub(super) async fn search_conversations(
    reader: &ArchiveReader,
    caller: &Caller,
    arguments: &SearchArguments,
) -> Result<Value, ReadError> {
    let (question, page) = arguments.question(reader.now())?;
    let found = reader.search(caller, &question, &page).await?;
    let mut list = BudgetedList::new(arguments.byte_budget(), 400);
    let hit = |hit: &SearchHitView| {
        json!({
            "segment_id": hit.segment_id,
            "dialog_id": hit.dialog_id,
            "account": hit.sub_account_id,
            "ended": hit.segment_end,
            "found_in": hit.artifact,
            "untrusted_speaker": hit.speaker,
            "at": hit.offset,
            "untrusted_passage": hit.passage,
        })
    };
    let _all_fit = found.hits.iter().all(|one| list.push(hit(one)));
    let (is_cut, shown) = (list.is_cut(), list.len());
    let mut answer = json!({
        "total": found.total,
        "total_is_exact": found.total_is_exact,
        "index_is_current": found.index_is_current,
        "hits": list.into_items(),
        "next": found.next,
        "cut": false,
    });
    if is_cut {
        let note = format!("only {shown} of {} hits fit: lower limit or raise max_tokens", found.hits.len());
        mark_cut(&mut answer, &note);
    } else if found.next.is_some() {
        mark_cut(&mut answer, "there are more hits: pass `next` as cursor, with the same arguments");
    }
    Ok(answer)
}

pub(super) async fn get_conversation(
    reader: &ArchiveReader,
    caller: &Caller,
    arguments: &ConversationArguments,
) -> Result<Value, ReadError> {
    let (id, entries) = match arguments.conversation()? {
        ConversationId::Segment { id, account } => {
            let entry = reader.read_segment(caller, &id, account.as_deref()).await?;
            (id, vec![entry])
        }
        ConversationId::Dialog { id } => {
            let entries = reader.read_dialog(caller, &id).await?;
            (id, entries)
        }
    };
    let budget = arguments.byte_budget();
    // The frame takes at most half of the budget; the phrases get the rest.
    let segments: Vec<Value> = entries.iter().map(describe_segment).collect();
    let frame_budget = budget / 2;
    let segments_json = Value::Array(segments);
    let is_frame_cut = segments_json.to_string().len() > frame_budget;
    let segments_json = if is_frame_cut { shorten_segments(segments_json, frame_budget) } else { segments_json };
    let dialog = DialogView::of(&id, &entries);
    let first = arguments.first_phrase.unwrap_or(0);
    let mut list = BudgetedList::new(budget, segments_json.to_string().len() + 300);
    let phrases = dialog.phrases.iter().skip(first).map(|one| {
        json!({
            "at": one.phrase.offset_ms.map(format_offset),
            "untrusted_speaker": one.phrase.speaker,
            "untrusted_text": one.phrase.text,
        })
    });
    let mut phrases = phrases;
    let _all_fit = phrases.by_ref().all(|phrase| list.push(phrase));
    let (is_cut, shown, total) = (list.is_cut(), list.len(), dialog.phrases.len());
    let mut answer = json!({
        "segments": segments_json,
        "phrases_total": total,
        "first_phrase": first,
        "phrases": list.into_items(),
        "cut": false,
    });
    let next = first + shown;
    if is_cut && next < total {
        mark_cut(&mut answer, &format!("pass first_phrase = {next} to read on, or raise max_tokens"));
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("next_phrase".to_owned(), json!(next));
        }
    } else if is_cut || is_frame_cut {
        mark_cut(&mut answer, "long texts were shortened: raise max_tokens to get all of them");
    }
    Ok(answer)
}

/// The metadata and the summaries of a segment.
fn describe_segment(entry: &SegmentEntry) -> Value {
    let SegmentEntry { segment, slots: [_, agent, auto, recording] } = entry;
    let metadata = Metadata::parse(&segment.metadata);
    let fields: Vec<String> = metadata
        .displayed_fields()
        .map(|(label, value)| format!("{label}: {}", clean_text(&value)).trim_start_matches(": ").to_owned())
        .collect();
    json!({
        "segment_id": segment.segment_id,
        "dialog_id": segment.dialog_id,
        "account": &*segment.account.sub,
        "ended": segment.ended.map(Time::rfc3339_secs),
        "untrusted_metadata": fields,
        "untrusted_agent_summary": summary_text_of(agent),
        "untrusted_auto_summary": summary_text_of(auto),
        "recording": recording_of(recording)
            .map(|recording| json!({ "duration_ms": recording.duration_ms, "type": recording.media_type })),
    })
}

/// Segments whose texts are cut to about this many bytes.
fn shorten_segments(segments: Value, bytes: usize) -> Value {
    let Value::Array(segments) = segments else { return segments };
    let mut list = BudgetedList::new(bytes, 0);
    let share = bytes / segments.len().max(1);
    let _all_fit = segments.into_iter().all(|segment| list.push(shorten(segment, share)));
    Value::Array(list.into_items())
}

pub(super) async fn count_conversations(
    reader: &ArchiveReader,
    caller: &Caller,
    arguments: &CountArguments,
) -> Result<Value, ReadError> {
    let answer = reader.count(caller, &arguments.filter(reader.now())?, arguments.dimension()?).await?;
    let mut list = BudgetedList::new(arguments.byte_budget(), 300);
    // The names of agents and dispositions come from outside, too.
    let _all_fit = answer
        .counts
        .iter()
        .all(|count| list.push(json!({ "untrusted_value": count.value, "conversations": count.count })));
    let is_cut = list.is_cut();
    let mut json = json!({ "by": answer.by, "total": answer.total, "counts": list.into_items(), "cut": false });
    if is_cut {
        mark_cut(&mut json, "raise max_tokens, or choose a shorter time range");
    } else if !answer.is_complete {
        mark_cut(&mut json, "there are too many conversations to count: choose a shorter time range");
    }
    Ok(json)
}

pub(super) async fn completeness(
    reader: &ArchiveReader,
    caller: &Caller,
    arguments: &CompletenessArguments,
) -> Result<Value, ReadError> {
    let report = reader.audit_report(caller, &arguments.question(reader.now())?).await?;
    let budget = arguments.byte_budget();
    let mut problems = BudgetedList::new(budget / 2, 300);
    let _all_fit = report.problems.iter().take(MAX_PROBLEMS).all(|problem| problems.push(json!(problem)));
    let mut accounts = BudgetedList::new(budget / 2, 0);
    let _all_fit = report.accounts.iter().all(|account| {
        accounts.push(json!({
            "account": account.sub_account_id,
            "name": account.name,
            "range": account.range,
            "read_without_gap_up_to": account.watermark,
            "gaps": account.gaps.len(),
            "segments": account.segments,
        }))
    });
    let is_cut = problems.is_cut() || accounts.is_cut() || report.problems.len() > MAX_PROBLEMS;
    let mut answer = json!({
        "complete": report.complete,
        "verdict": report.verdict,
        "problems_total": report.problems.len(),
        "problems": problems.into_items(),
        "accounts_total": report.accounts.len(),
        "accounts": accounts.into_items(),
        "cut": false,
    });
    if is_cut {
        mark_cut(&mut answer, "choose an account, or raise max_tokens");
    }
    Ok(answer)
}
