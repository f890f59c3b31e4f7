//! What is taken out, what stays, and what holds for every text.

use proptest::prelude::*;

use super::*;

fn all() -> Redactor {
    let order = Redact::Pattern { name: "order".to_owned(), pattern: Regex::new(r"ORD-\d+").unwrap() };
    Redactor::new(&[Redact::Card, Redact::Email, Redact::Phone, order])
}

fn redacted(text: &str) -> String {
    all().text(text).into_owned()
}

fn stays(texts: &[&str]) {
    for text in texts {
        assert_eq!(redacted(text), *text);
        assert!(matches!(all().text(text), Cow::Borrowed(_)));
    }
}

#[test]
fn card_numbers_go_however_they_are_grouped() {
    for card in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111\u{a0}1111\u{2011}1111 1111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "3782 822463 10005",
        "5500005555555559",
        "30569309025904",
        "6304 0000 0000 0000",
        "4222222222222",
    ] {
        assert_eq!(redacted(&format!("It is {card}, thanks")), "It is [card], thanks", "{card}");
    }
    assert_eq!(redacted("卡号4111111111111111吗"), "卡号[card]吗");
    assert_eq!(redacted("two: 4111111111111111,5500005555555559."), "two: [card],[card].");
    assert_eq!(redacted("12 4111 1111 1111 1111"), "12 [card]");
}

#[test]
fn numbers_that_are_no_cards_stay() {
    stays(&[
        "4111 1111 1111 1112",
        "41111111111111111111111",
        "a4111111111111111",
        "1721651880000 1721651880001 1721651880002 1721651880003",
        "ratio 0.4111111111111111",
        "550e8400-e29b-41d4-a716-446655440000",
    ]);
}

#[test]
fn addresses_go_written_and_spoken() {
    assert_eq!(redacted("Mail jane.doe+x@mail.example.com."), "Mail [email].");
    assert_eq!(redacted("<jörg@müller.de>;a@b.co"), "<[email]>;[email]");
    assert_eq!(redacted("it's jane dot doe at example dot co dot uk ok"), "it's [email] ok");
    assert_eq!(redacted("mailto:4155552671@txt.example.net"), "mailto:[email]");
    stays(&["me @ home", "@jane", "user@localhost", "look at the dot", "a@1.2"]);
}

#[test]
fn telephone_numbers_go_in_common_shapes() {
    for phone in [
        "+14155552671",
        "+1 (415) 555-2671",
        "+44 (0)20 7946 0958",
        "+49 89 123456",
        "0049 89 1234567",
        "(415) 555-2671",
        "415-555-2671",
        "415.555.2671",
        "415 555 2671",
        "1-415-555-2671",
        "4155552671",
        "14155552671",
        "4 1 5 5 5 5 2 6 7 1",
        "555-2671",
        "020 7946 0958",
        "089/12345678",
        "06 12 34 56 78",
        "0612345678",
    ] {
        assert_eq!(redacted(&format!("Call {phone}, please")), "Call [phone], please", "{phone}");
    }
    assert_eq!(redacted("+14155552671 4155552671"), "[phone] [phone]");
    assert_eq!(redacted("4155552671x12"), "[phone]x12");
}

#[test]
fn dates_amounts_times_and_ids_are_no_telephones() {
    stays(&[
        "2024-07-22T11:24:40.000Z",
        "on 01.02.2024 10:30 or 05/06/2024",
        "2024-07-22 11:24:40+02:00",
        "1721651880",
        "$2,345,678.00 and 1 234 567.89 EUR",
        "12345678",
        "order #4155552671, ref A-4155552671",
        "version 1.2.3.4, 192.168.100.200",
        "s-v-93bd0e6f-1721690897808",
        "4155552671%",
        "https://example.org/4155552671/x",
        "room 345 2019",
    ]);
}

#[test]
fn a_card_is_a_card_before_it_is_a_telephone() {
    assert_eq!(redacted("4111 1111 1111 1111 or 415 555 2671"), "[card] or [phone]");
    let phone = Redactor::new(&[Redact::Phone]);
    assert_eq!(phone.text("4111 1111 1111 1111 a@b.co"), "4111 1111 1111 1111 a@b.co");
}

#[test]
fn own_patterns_go_under_their_names_and_widen_what_they_overlap() {
    assert_eq!(redacted("see ORD-77 now"), "see [order] now");
    let pattern = Redact::Pattern { name: "user]".to_owned(), pattern: Regex::new(r"user=\w+ <[^>]+>").unwrap() };
    let redactor = Redactor::new(&[Redact::Email, pattern]);
    assert_eq!(redactor.text("user=jane <j@e.co>!"), "[user]!");
    let greedy = Redact::Pattern { name: "x".to_owned(), pattern: Regex::new(r"^.|\w+").unwrap() };
    assert_eq!(Redactor::new(&[greedy]).text("-ab c"), "[x][x] [x]");
}

#[test]
fn in_a_transcript_only_what_people_said_changes() {
    let body = r#" {"channelClass":"VOICE","big":123456789012345678901234567890,"one":1.0,"twice":1,"twice":2,
      "errorCode":"4155552671", "transcript":[{"participantId":"4155552671","participantName":"Jane 415-555-2671",
      "rcUserId":null,"timestamp":"1721651880000","message":"\u0034111 1111 1111 1111\nbye \ud800"},
      {"message":"nothing \u00fc"}], "translation":["a\u0040b.co",{"x":[4111111111111111]}]}"#;
    let expected = body
        .replace(r#""participantId":"4155552671""#, r#""participantId":"[phone]""#)
        .replace("Jane 415-555-2671", "Jane [phone]")
        .replace(r"\u0034111 1111 1111 1111\nbye \ud800", r"[card]\nbye �")
        .replace(r"a\u0040b.co", "[email]");
    let redacted = all().transcript(body.as_bytes()).into_owned();
    // Half a surrogate pair is three bytes that are no text.
    let redacted = String::from_utf8(redacted).unwrap().replace("���", "�");
    assert_eq!(redacted, expected);
}

#[test]
fn a_body_that_is_no_json_is_a_text() {
    assert_eq!(&*all().transcript(b"{\"message\": a@b.co"), b"{\"message\": [email]");
    assert_eq!(&*all().transcript("\u{feff}{\"m\":\"a@b.co\"}".as_bytes()), "\u{feff}{\"m\":\"[email]\"}".as_bytes());
    assert_eq!(&*all().transcript(b"\xff 4155552671"), "\u{fffd} [phone]".as_bytes());
    assert!(matches!(all().transcript(b"\xff"), Cow::Borrowed(b"\xff")));
}

#[test]
fn a_summary_that_is_a_json_string_stays_one() {
    assert_eq!(&*all().summary(br#" "mail\na\u0040b.co""#), br#" "mail\n[email]""#);
    assert_eq!(&*all().summary(br#"mail "a@b.co" now"#), br#"mail "[email]" now"#);
    assert_eq!(&*all().summary(br#"{"segmentId":"a@b.co"}"#), br#"{"segmentId":"[email]"}"#);
}

#[test]
fn in_metadata_notes_and_both_ends_of_the_line_change_and_ids_and_times_stay() {
    let metadata = r#"{"segmentId":"p-4155552671","channelId":"2013770791","channelEndpointAddress":"7312066731",
        "contactEndpointAddress":"+1324","agentNotes":"call 415-555-2671","segmentEndTimeMs":"2024-07-22T11:24:47.000Z",
        "interactionId":"202407221928172035020000000572","segmentDurationMs":7000,"agentDisposition":"Success"}"#;
    let expected =
        metadata.replace("2013770791", "[phone]").replace("7312066731", "[phone]").replace("+1324", "[phone]");
    let expected = expected.replace("415-555-2671", "[phone]");
    assert_eq!(all().metadata(metadata), expected);
    let digital = r#"{"channelId":"672daeb8cd026600070ca39f","contactEndpointAddress":"jane@example.com"}"#;
    assert_eq!(all().metadata(digital), digital.replace("jane@example.com", "[email]"));
    assert_eq!(Redactor::new(&[Redact::Card]).metadata(metadata), metadata);
}

#[test]
fn numbers_go_however_they_are_spaced_and_in_whichever_digits() {
    for phone in [
        "+49\u{a0}30\u{2009}123\u{202f}4567",
        "+49\u{2011}30\u{2013}123\u{2212}4567",
        "\u{202a}+49\u{200b} 30 1234567",
        "＋４９ （３０） １２３４５６７",
        "+٤٩ ٣٠ ١٢٣٤٥٦٧",
        "٤١٥-٥٥٥-٢٦٧١",
        "415\u{2060}555\u{2060}2671",
    ] {
        let redacted = redacted(&format!("Ruf {phone} für mich"));
        let seen: String = redacted.chars().filter(|letter| fold_char(*letter).is_some()).collect();
        assert_eq!(seen, "Ruf [phone] für mich", "{phone}");
    }
    assert_eq!(redacted("４１１１ 1111\u{200b} 1111\u{2009}1111 é"), "[card] é");
    assert_eq!(redacted("jane\u{ad}@example.com é"), "[email] é");
    assert_eq!(redacted("โทร\u{200b}4155552671\u{200b}ครับ"), "โทร\u{200b}[phone]\u{200b}ครับ");
    assert_eq!(redacted("tel\u{200b}4155552671"), "tel\u{200b}[phone]");
}

#[test]
fn what_was_lost_or_what_nobody_sees_hides_nothing() {
    for (text, expected) in [
        ("call 415\u{0}555\u{0}2671", "call [phone]"),
        ("+49\u{fffd}30\u{fffd}1234567!", "[phone]!"),
        ("4111\u{fffd}1111\u{fffd}1111\u{fffd}1111", "[card]"),
        ("j\u{fffd}rg@m\u{fffd}ller.de", "[email]"),
        ("jane@exa\u{1}mple.com", "[email]"),
    ] {
        assert_eq!(redacted(text), expected, "{text:?}");
    }
    for (json, expected) in [
        (r#"{"ani":"+49 30\u0000 1234567"}"#, r#"{"ani":"[phone]"}"#),
        (r#"{"ani":"5551\ud83d234"}"#, r#"{"ani":"[phone]"}"#),
        (r#"{"\u0061ni":"5551234"}"#, r#"{"\u0061ni":"[phone]"}"#),
        (
            r#"{"contact":{"value":"5551234","x":[{"y":5551234}]}}"#,
            r#"{"contact":{"value":"[phone]","x":[{"y":"[phone]"}]}}"#,
        ),
        (r#"{"participantId":{"id":"4930123456"}}"#, r#"{"participantId":{"id":"[phone]"}}"#),
        (
            r#"{"contact":{"contactId":"5551234","timestamp":"5551234"},"x":"5551234"}"#,
            r#"{"contact":{"contactId":"5551234","timestamp":"5551234"},"x":"5551234"}"#,
        ),
    ] {
        assert_eq!(all().metadata(json), expected);
    }
}

#[test]
fn whoever_is_not_the_agent_is_no_number_any_more() {
    let redact = |text: &str| String::from_utf8(all().transcript(text.as_bytes()).into_owned()).unwrap();
    for (who, expected) in [
        (
            r#"{"participantId":"4930123456","participantType":null}"#,
            r#"{"participantId":"[phone]","participantType":null}"#,
        ),
        (r#"{"participantId":4930123456}"#, r#"{"participantId":"[phone]"}"#),
        (r#"{"participantId":"449438"}"#, r#"{"participantId":"449438"}"#),
        (
            r#"{"participantId":"4930123456","participantType":"Agent"}"#,
            r#"{"participantId":"4930123456","participantType":"Agent"}"#,
        ),
        (
            r#"{"participantType":"agent","participantId":4930123456}"#,
            r#"{"participantType":"agent","participantId":4930123456}"#,
        ),
        (r#"{"participantId":"sip:+4930123456@pbx"}"#, r#"{"participantId":"[phone]"}"#),
        (r#"{"participantId":"jane@example.com"}"#, r#"{"participantId":"[email]"}"#),
        (r#"{"participantId":"d-6555aa00cd-1700115548459"}"#, r#"{"participantId":"d-6555aa00cd-1700115548459"}"#),
        (r#"{"participantName":"4930123456"}"#, r#"{"participantName":"[phone]"}"#),
        (r#"{"ani":"4930123456","dnis":4930123456}"#, r#"{"ani":"[phone]","dnis":"[phone]"}"#),
        (r#"{"callerNumber":"Jane <4930123456>"}"#, r#"{"callerNumber":"Jane <[phone]>"}"#),
        (r#"{"from":"4930123456; tel:030123456"}"#, r#"{"from":"[phone];[phone]"}"#),
        (r#"{"contactEndpointAddress":"whatsapp:4930123456"}"#, r#"{"contactEndpointAddress":"[phone]"}"#),
        (r#"{"contactId":"4930123456","contactType":"x"}"#, r#"{"contactId":"4930123456","contactType":"x"}"#),
    ] {
        assert_eq!(redact(who), expected);
        assert_eq!(redact(expected), expected, "the second time");
    }
}

#[test]
fn without_rules_nothing_changes() {
    let idle = Redactor::new(&[]);
    assert!(idle.is_idle() && Redactor::default().is_idle() && !all().is_idle());
    assert!(matches!(idle.text("4111111111111111"), Cow::Borrowed(_)));
    assert!(matches!(idle.transcript(b"\xff a@b.co"), Cow::Borrowed(b"\xff a@b.co")));
    assert!(matches!(idle.summary(b"a@b.co"), Cow::Borrowed(_)));
    assert!(matches!(idle.metadata("a@b.co"), Cow::Borrowed("a@b.co")));
}

/// Texts full of what might be taken out.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[0-9]{1,20}",
        "[0-9][ -]?",
        "[ .,:/()+#@x\\-\\[\\]]{1,3}",
        "\\PC{0,6}",
        "[\u{0}\u{7f}\u{fffd}]{1,2}",
        Just("4111 1111 1111 1111".to_owned()),
        Just("+1 415 555 2671".to_owned()),
        Just("jane@example.com".to_owned()),
        Just(" at example dot com".to_owned()),
        Just("ORD-12".to_owned()),
        Just("[card]".to_owned()),
        Just("[phone".to_owned()),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// JSON under names of every role.
fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        text().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null)
    ];
    let name = prop_oneof!["message", "participantName", "timestamp", "dialogId", "channelId", "ani", "x", "\\PC{0,3}"];
    leaf.prop_recursive(3, 20, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect()))
        ]
    })
}

/// The same with each free text blanked.
fn skeleton(value: &serde_json::Value, role: Role) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(_) if role != Role::Fixed => Value::from("*"),
        Value::Number(_) if role == Role::Endpoint => Value::from("*"),
        Value::Array(items) => items.iter().map(|item| skeleton(item, role)).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let inner = |name: &String, value: &Value| {
                let quoted = serde_json::to_string(name).unwrap();
                skeleton(value, json::role_of_token(&quoted, role))
            };
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), inner(name, value))).collect())
        }
        other => other.clone(),
    }
}

#[test]
fn json_with_a_raw_control_character_keeps_its_ids_and_times() {
    let body = b"{\"timestamp\":\"1721651880000\",\"message\":\"a\x01 call 555-2671\",\"caf\xe9Id\":\"555-2671\"}";
    let once = String::from_utf8(all().transcript(body).into_owned()).unwrap();
    assert_eq!(
        once,
        "{\"timestamp\":\"1721651880000\",\"message\":\"a\\u0001 call [phone]\",\"caf\u{fffd}Id\":\"555-2671\"}"
    );
    let whole = b"{\"message\":\"a\x01\"}";
    assert_eq!(&*all().transcript(whole), whole);
}

proptest! {
    #[test]
    fn the_second_time_changes_nothing(text in text()) {
        let once = redacted(&text);
        prop_assert!(matches!(all().text(&once), Cow::Borrowed(_)), "{:?} became {:?}, then {:?}", text, once, redacted(&once));
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let once = all().transcript(&bytes).into_owned();
        prop_assert_eq!(all().transcript(&once).into_owned(), once.clone());
        let once = all().summary(&bytes).into_owned();
        prop_assert_eq!(all().summary(&once).into_owned(), once.clone());
    }

    #[test]
    fn json_stays_json_and_keeps_all_but_its_free_texts(value in document(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let once = all().metadata(&text).into_owned();
        let read: serde_json::Value = serde_json::from_str(&once).unwrap();
        prop_assert_eq!(skeleton(&read, Role::Text), skeleton(&value, Role::Text));
        prop_assert!(matches!(all().metadata(&once), Cow::Borrowed(_)));
        prop_assert_eq!(all().transcript(text.as_bytes()).into_owned(), once.into_bytes());
    }
}
