//! What becomes of events and sinks after which answers.

use proptest::prelude::*;

use super::*;

fn error(kind: SinkErrorKind, status: u16) -> SinkError {
    SinkError { status: Some(status), ..SinkError::new(kind, "why") }
}

/// An answer by a letter: `.` taken, `e` 500, `r` 400, `w` 404, `a` away, `g` 410.
fn answer(letter: char) -> Result<(), SinkError> {
    match letter {
        '.' => Ok(()),
        'e' => Err(error(SinkErrorKind::Event, 500)),
        'r' => Err(error(SinkErrorKind::Refused, 400)),
        'w' => Err(error(SinkErrorKind::Refused, 404)),
        'a' => Err(error(SinkErrorKind::Away, 429)),
        _ => Err(error(SinkErrorKind::Gone, 410)),
    }
}

fn letter(ruling: &Option<Ruling>) -> char {
    match ruling {
        None => '?',
        Some(Ruling::Delivered) => '.',
        Some(Ruling::SetAside(_)) => 's',
        Some(Ruling::Failed(_)) => 'f',
    }
}

/// Rulings by letter, then what becomes of the pass.
fn pass(streak: &mut Streak, rests: u32, room: usize, from: i64, answers: &str) -> String {
    let mut judge = Judge::new(streak, rests, room, answers.len());
    let mut flow = Flow::On;
    for (index, letter) in answers.chars().enumerate() {
        flow = judge.hear(index, (1, from + index as i64), answer(letter));
        if flow != Flow::On {
            break;
        }
    }
    let (rulings, flow) = judge.end(flow);
    let end = match flow {
        Flow::On => "",
        Flow::Rest(_) => " rest",
        Flow::Stop(_) => " stop",
    };
    format!("{}{end}", rulings.iter().map(letter).collect::<String>())
}

fn once(answers: &str) -> String {
    pass(&mut Streak::default(), 0, 1000, 1, answers)
}

#[test]
fn an_event_that_fails_among_others_is_set_aside() {
    assert_eq!(once("..e.."), "..s..");
    assert_eq!(once("ee.ee."), "ss.ss.");
    assert_eq!(once("e"), "s");
}

#[test]
fn three_that_fail_in_a_row_are_the_sinks_trouble_and_nothing_is_set_aside() {
    assert_eq!(once(".eee."), ".???? rest");
    assert_eq!(once("eew"), "??? rest");
    let mut streak = Streak::default();
    assert_eq!(pass(&mut streak, 0, 9, 1, "e"), "s");
    assert_eq!(pass(&mut streak, 0, 9, 2, "e"), "s");
    assert_eq!(pass(&mut streak, 0, 9, 3, "e."), "?? rest");
}

#[test]
fn the_same_event_failing_again_and_again_is_one_event() {
    let mut streak = Streak::default();
    for _ in 0..5 {
        assert_eq!(pass(&mut streak, 0, 9, 7, "e"), "s");
    }
}

#[test]
fn what_is_refused_is_given_up_and_shows_that_the_sink_is_alive() {
    assert_eq!(once("r.r"), "f.f");
    assert_eq!(once("eerre"), "ssffs");
    let many = "r".repeat(30);
    assert_eq!(once(&many), format!("{}{} rest", "f".repeat(20), "?".repeat(10)));
}

#[test]
fn a_missing_address_is_the_events_trouble_only_while_others_go_through() {
    assert_eq!(once("w."), "f.");
    assert_eq!(once(".w"), ".s");
    assert_eq!(once("www"), "??? rest");
}

#[test]
fn a_sink_that_is_away_rests_at_once_and_one_that_wants_nothing_more_stops() {
    assert_eq!(once(".ea."), ".??? rest");
    assert_eq!(once(".eg."), ".sf? stop");
}

#[test]
fn a_sink_that_rests_is_tried_with_ever_more_events_until_one_goes_through() {
    let mut streak = Streak::default();
    assert_eq!(pass(&mut streak, 0, 9, 1, "eeee"), "???? rest");
    assert_eq!(pass(&mut streak, 1, 9, 1, "eeee"), "???? rest");
    assert_eq!(pass(&mut streak, 2, 9, 1, "eeee."), "ssss.");
    assert_eq!(pass(&mut streak, 1, 9, 1, "ee"), "?? rest", "nothing was taken");
    assert_eq!((probes(1), probes(5), probes(u32::MAX)), (4, 8, PROBES));
}

#[test]
fn only_so_many_events_wait() {
    assert_eq!(pass(&mut Streak::default(), 0, 1, 1, "e.e."), "s.?. rest");
}

#[test]
fn an_event_tried_again_waits_until_patience_is_over() {
    let mut streak = Streak::default();
    let mut tried = |letter, over| {
        let (ruling, flow) = again(&mut streak, (1, 1), answer(letter), over);
        (super::tests::letter(&ruling), flow == Flow::On)
    };
    assert_eq!(tried('e', false), ('s', true));
    assert_eq!(tried('e', true), ('f', true));
    assert_eq!(tried('r', false), ('f', true));
    assert_eq!(tried('w', false), ('f', true));
    assert_eq!(tried('a', false), ('?', false));
    assert_eq!(tried('g', false), ('f', false));
    assert_eq!(tried('.', false), ('.', true));
}

#[test]
fn an_event_refused_before_anything_was_taken_waits_for_a_sign_of_life() {
    let mut streak = Streak::default();
    assert_eq!(pass(&mut streak, 0, 9, 1, "w"), "s");
    assert_eq!(letter(&again(&mut streak, (1, 1), answer('w'), false).0), 's');
    assert_eq!(pass(&mut streak, 0, 9, 2, "."), ".");
    assert_eq!(letter(&again(&mut streak, (1, 1), answer('w'), false).0), 'f');
}

proptest! {
    #[test]
    fn nothing_that_was_not_taken_counts_as_delivered_and_nothing_that_was_taken_is_set_aside(
        answers in "[.erwag]{0,40}", rests in 0u32..40, room in 0usize..10,
    ) {
        let told = pass(&mut Streak::default(), rests, room, 1, &answers);
        let rulings: Vec<char> = told.chars().take(answers.len()).collect();
        prop_assert_eq!(rulings.len(), answers.len());
        for (answer, ruling) in answers.chars().zip(&rulings) {
            prop_assert!(*ruling != '.' || answer == '.', "{} {}", answers, told);
            prop_assert!(answer != '.' || *ruling == '.' || *ruling == '?', "{} {}", answers, told);
        }
        prop_assert!(rulings.iter().filter(|ruling| **ruling == 's').count() <= room);
        // Whatever has no ruling is followed by a rest, or was never asked about: nothing is passed over.
        prop_assert!(!rulings.contains(&'?') || told.ends_with("rest") || told.ends_with("stop"), "{} {}", answers, told);
    }
}
