//! Which responses lead to which decisions and actions.

use proptest::prelude::*;

use super::*;

fn error(kind: SinkErrorKind, status: u16) -> SinkError {
    SinkError { status: Some(status), ..SinkError::new(kind, "why") }
}

/// A response by letter: `.` accepted, `e` 500, `r` 400, `w` 404, `a` unavailable, `g` 410.
fn response(letter: char) -> Result<(), SinkError> {
    match letter {
        '.' => Ok(()),
        'e' => Err(error(SinkErrorKind::Retryable, 500)),
        'r' => Err(error(SinkErrorKind::Refused, 400)),
        'w' => Err(error(SinkErrorKind::Refused, 404)),
        'a' => Err(error(SinkErrorKind::Unavailable, 429)),
        _ => Err(error(SinkErrorKind::Gone, 410)),
    }
}

/// `.` delivered, `s` scheduled for a retry, `f` failed for good, `?` undecided.
fn letter(decision: &Option<EventDecision>) -> char {
    match decision {
        None => '?',
        Some(EventDecision::Delivered) => '.',
        Some(EventDecision::Retry(_)) => 's',
        Some(EventDecision::GiveUp(_)) => 'f',
    }
}

/// The decisions by letter, then the action: ` pause`, ` stop` or nothing.
fn run_round(
    streak: &mut FailureStreak,
    consecutive_pauses: u32,
    retry_capacity: usize,
    from: i64,
    responses: &str,
) -> String {
    let mut policy = FailurePolicy::new(streak, consecutive_pauses, retry_capacity, responses.len());
    let mut action = SinkAction::Continue;
    for (index, letter) in responses.chars().enumerate() {
        action = policy.on_response(index, (AccountKey(1), from + index as i64), response(letter));
        if action != SinkAction::Continue {
            break;
        }
    }
    let (decisions, action) = policy.finish(action);
    let suffix = match action {
        SinkAction::Continue => "",
        SinkAction::Pause(_) => " pause",
        SinkAction::Stop(_) => " stop",
    };
    format!("{}{suffix}", decisions.iter().map(letter).collect::<String>())
}

fn run_single_round(responses: &str) -> String {
    run_round(&mut FailureStreak::default(), 0, 1000, 1, responses)
}

#[test]
fn an_event_that_fails_among_others_is_retried() {
    assert_eq!(run_single_round("..e.."), "..s..");
    assert_eq!(run_single_round("ee.ee."), "ss.ss.");
    assert_eq!(run_single_round("e"), "s");
}

#[test]
fn three_failed_events_in_a_row_pause_the_sink_and_none_is_retried() {
    assert_eq!(run_single_round(".eee."), ".???? pause");
    assert_eq!(run_single_round("eew"), "??? pause");
    let mut streak = FailureStreak::default();
    assert_eq!(run_round(&mut streak, 0, 9, 1, "e"), "s");
    assert_eq!(run_round(&mut streak, 0, 9, 2, "e"), "s");
    assert_eq!(run_round(&mut streak, 0, 9, 3, "e."), "?? pause");
}

#[test]
fn one_event_that_fails_repeatedly_counts_once() {
    let mut streak = FailureStreak::default();
    for _ in 0..5 {
        assert_eq!(run_round(&mut streak, 0, 9, 7, "e"), "s");
    }
}

#[test]
fn a_refused_event_is_given_up_and_proves_the_sink_alive() {
    assert_eq!(run_single_round("r.r"), "f.f");
    assert_eq!(run_single_round("eerre"), "ssffs");
    let many = "r".repeat(30);
    assert_eq!(run_single_round(&many), format!("{}{} pause", "f".repeat(20), "?".repeat(10)));
}

#[test]
fn a_404_is_the_events_fault_only_while_others_are_accepted() {
    assert_eq!(run_single_round("w."), "f.");
    assert_eq!(run_single_round(".w"), ".s");
    assert_eq!(run_single_round("www"), "??? pause");
}

#[test]
fn an_unavailable_sink_is_paused_at_once_and_a_410_stops_it() {
    assert_eq!(run_single_round(".ea."), ".??? pause");
    assert_eq!(run_single_round(".eg."), ".sf? stop");
}

#[test]
fn a_paused_sink_is_probed_with_more_events_each_time_until_one_is_accepted() {
    let mut streak = FailureStreak::default();
    assert_eq!(run_round(&mut streak, 0, 9, 1, "eeee"), "???? pause");
    assert_eq!(run_round(&mut streak, 1, 9, 1, "eeee"), "???? pause");
    assert_eq!(run_round(&mut streak, 2, 9, 1, "eeee."), "ssss.");
    assert_eq!(run_round(&mut streak, 1, 9, 1, "ee"), "?? pause", "no event was accepted");
    assert_eq!((probe_count(1), probe_count(5), probe_count(u32::MAX)), (4, 8, MAX_PROBE_EVENTS));
}

#[test]
fn the_number_of_events_waiting_for_a_retry_is_bounded() {
    assert_eq!(run_round(&mut FailureStreak::default(), 0, 1, 1, "e.e."), "s.?. pause");
}

#[test]
fn a_retried_event_is_given_up_at_the_retry_limit() {
    let mut streak = FailureStreak::default();
    let mut retry = |letter, limit_reached| {
        let (decision, action) = decide_retried(&mut streak, (AccountKey(1), 1), response(letter), limit_reached);
        (super::tests::letter(&decision), action == SinkAction::Continue)
    };
    assert_eq!(retry('e', false), ('s', true));
    assert_eq!(retry('e', true), ('f', true));
    assert_eq!(retry('r', false), ('f', true));
    assert_eq!(retry('w', false), ('f', true));
    assert_eq!(retry('a', false), ('?', false));
    assert_eq!(retry('g', false), ('f', false));
    assert_eq!(retry('.', false), ('.', true));
}

#[test]
fn an_event_refused_before_any_was_accepted_is_retried_until_the_sink_proves_alive() {
    let mut streak = FailureStreak::default();
    assert_eq!(run_round(&mut streak, 0, 9, 1, "w"), "s");
    assert_eq!(letter(&decide_retried(&mut streak, (AccountKey(1), 1), response('w'), false).0), 's');
    assert_eq!(run_round(&mut streak, 0, 9, 2, "."), ".");
    assert_eq!(letter(&decide_retried(&mut streak, (AccountKey(1), 1), response('w'), false).0), 'f');
}

proptest! {
    #[test]
    fn only_accepted_events_count_as_delivered_and_none_of_them_is_retried(
        responses in "[.erwag]{0,40}", consecutive_pauses in 0u32..40, retry_capacity in 0usize..10,
    ) {
        let outcome = run_round(&mut FailureStreak::default(), consecutive_pauses, retry_capacity, 1, &responses);
        let decisions: Vec<char> = outcome.chars().take(responses.len()).collect();
        prop_assert_eq!(decisions.len(), responses.len());
        for (response, decision) in responses.chars().zip(&decisions) {
            prop_assert!(*decision != '.' || response == '.', "{} {}", responses, outcome);
            prop_assert!(response != '.' || *decision == '.' || *decision == '?', "{} {}", responses, outcome);
        }
        prop_assert!(decisions.iter().filter(|decision| **decision == 's').count() <= retry_capacity);
        // An event without a decision is followed by a pause or a stop: none is skipped.
        prop_assert!(!decisions.contains(&'?') || outcome.ends_with("pause") || outcome.ends_with("stop"), "{} {}", responses, outcome);
    }
}
