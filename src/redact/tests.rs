//! Redaction: examples of what is redacted and what stays, and properties of any text.

use proptest::prelude::*;

use super::*;

fn all_rules() -> Redactor {
    let order = RedactionRule::Pattern { name: "order".to_owned(), pattern: Regex::new(r"ORD-\d+").unwrap() };
    Redactor::new(&[RedactionRule::Card, RedactionRule::Email, RedactionRule::Phone, order])
}

fn redacted(text: &str) -> String {
    all_rules().text(text).into_owned()
}

fn assert_unchanged(texts: &[&str]) {
    for text in texts {
        assert_eq!(redacted(text), *text);
        assert!(matches!(all_rules().text(text), Cow::Borrowed(_)));
    }
}

#[test]
fn card_numbers_are_redacted_in_any_grouping() {
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
    assert_unchanged(&[
        "4111 1111 1111 1112",
        "41111111111111111111111",
        "a4111111111111111",
        "1721651880000 1721651880001 1721651880002 1721651880003",
        "ratio 0.4111111111111111",
        "550e8400-e29b-41d4-a716-446655440000",
    ]);
}

#[test]
fn written_and_spoken_addresses_are_redacted() {
    assert_eq!(redacted("Mail jane.doe+x@mail.example.com."), "Mail [email].");
    assert_eq!(redacted("<jörg@müller.de>;a@b.co"), "<[email]>;[email]");
    assert_eq!(redacted("it's jane dot doe at example dot co dot uk ok"), "it's [email] ok");
    assert_eq!(redacted("mailto:4155552671@txt.example.net"), "mailto:[email]");
    assert_unchanged(&["me @ home", "@jane", "user@localhost", "look at the dot", "a@1.2"]);
}

#[test]
fn telephone_numbers_are_redacted_in_common_formats() {
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
    assert_unchanged(&[
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
fn cards_take_precedence_over_telephones() {
    assert_eq!(redacted("4111 1111 1111 1111 or 415 555 2671"), "[card] or [phone]");
    let phone = Redactor::new(&[RedactionRule::Phone]);
    assert_eq!(phone.text("4111 1111 1111 1111 a@b.co"), "4111 1111 1111 1111 a@b.co");
}

#[test]
fn custom_patterns_have_their_labels_and_merge_with_overlaps() {
    assert_eq!(redacted("see ORD-77 now"), "see [order] now");
    let pattern =
        RedactionRule::Pattern { name: "user]".to_owned(), pattern: Regex::new(r"user=\w+ <[^>]+>").unwrap() };
    let redactor = Redactor::new(&[RedactionRule::Email, pattern]);
    assert_eq!(redactor.text("user=jane <j@e.co>!"), "[user]!");
    let greedy = RedactionRule::Pattern { name: "x".to_owned(), pattern: Regex::new(r"^.|\w+").unwrap() };
    assert_eq!(Redactor::new(&[greedy]).text("-ab c"), "[x][x] [x]");
}

#[test]
fn in_a_transcript_only_free_text_changes() {
    let body = r#" {"channelClass":"VOICE","big":123456789012345678901234567890,"one":1.0,"twice":1,"twice":2,
      "errorCode":"4155552671", "transcript":[{"participantId":"4155552671","participantName":"Jane 415-555-2671",
      "rcUserId":null,"timestamp":"1721651880000","message":"\u0034111 1111 1111 1111\nbye \ud800"},
      {"message":"nothing \u00fc"}], "translation":["a\u0040b.co",{"x":[4111111111111111]}]}"#;
    let expected = body
        .replace(r#""participantId":"4155552671""#, r#""participantId":"[phone]""#)
        .replace("Jane 415-555-2671", "Jane [phone]")
        .replace(r"\u0034111 1111 1111 1111\nbye \ud800", r"[card]\nbye �")
        .replace(r"a\u0040b.co", "[email]");
    let redacted = all_rules().transcript(body.as_bytes()).into_owned();
    assert_eq!(String::from_utf8(redacted).unwrap(), expected);
}

#[test]
fn a_body_that_is_not_json_is_a_text() {
    assert_eq!(&*all_rules().transcript(b"{\"message\": a@b.co"), b"{\"message\": [email]");
    assert_eq!(
        &*all_rules().transcript("\u{feff}{\"m\":\"a@b.co\"}".as_bytes()),
        "\u{feff}{\"m\":\"[email]\"}".as_bytes()
    );
    assert_eq!(&*all_rules().transcript(b"\xff 4155552671"), "\u{fffd} [phone]".as_bytes());
    assert!(matches!(all_rules().transcript(b"\xff"), Cow::Borrowed(b"\xff")));
}

#[test]
fn a_summary_that_is_a_json_string_stays_one() {
    assert_eq!(&*all_rules().summary(br#" "mail\na\u0040b.co""#), br#" "mail\n[email]""#);
    assert_eq!(&*all_rules().summary(br#"mail "a@b.co" now"#), br#"mail "[email]" now"#);
    assert_eq!(&*all_rules().summary(br#"{"segmentId":"a@b.co"}"#), br#"{"segmentId":"[email]"}"#);
}

#[test]
fn in_metadata_notes_and_endpoints_change_and_ids_and_times_stay() {
    let metadata = r#"{"segmentId":"p-4155552671","channelId":"2013770791","channelEndpointAddress":"7312066731",
        "contactEndpointAddress":"+1324","agentNotes":"call 415-555-2671","segmentEndTimeMs":"2024-07-22T11:24:47.000Z",
        "interactionId":"202407221928172035020000000572","segmentDurationMs":7000,"agentDisposition":"Success"}"#;
    let expected =
        metadata.replace("2013770791", "[phone]").replace("7312066731", "[phone]").replace("+1324", "[phone]");
    let expected = expected.replace("415-555-2671", "[phone]");
    assert_eq!(all_rules().metadata(metadata), expected);
    let digital = r#"{"channelId":"672daeb8cd026600070ca39f","contactEndpointAddress":"jane@example.com"}"#;
    assert_eq!(all_rules().metadata(digital), digital.replace("jane@example.com", "[email]"));
    assert_eq!(Redactor::new(&[RedactionRule::Card]).metadata(metadata), metadata);
}

#[test]
fn numbers_are_redacted_with_any_spaces_and_digits() {
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
fn lost_and_invisible_characters_hide_nothing() {
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
        assert_eq!(all_rules().metadata(json), expected);
    }
}

#[test]
fn numbers_of_participants_other_than_the_agent_are_redacted() {
    let redact = |text: &str| String::from_utf8(all_rules().transcript(text.as_bytes()).into_owned()).unwrap();
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
        assert_eq!(redact(expected), expected, "idempotent");
    }
}

#[test]
fn without_rules_nothing_changes() {
    let noop = Redactor::new(&[]);
    assert!(noop.is_noop() && Redactor::default().is_noop() && !all_rules().is_noop());
    assert!(matches!(noop.text("4111111111111111"), Cow::Borrowed(_)));
    assert!(matches!(noop.transcript(b"\xff a@b.co"), Cow::Borrowed(b"\xff a@b.co")));
    assert!(matches!(noop.summary(b"a@b.co"), Cow::Borrowed(_)));
    assert!(matches!(noop.metadata("a@b.co"), Cow::Borrowed("a@b.co")));
}

/// Texts with many possible matches.
fn any_text() -> impl Strategy<Value = String> {
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

/// JSON with fields of every role.
fn any_document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any_text().prop_map(serde_json::Value::from),
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

/// The JSON with each free text blanked.
fn without_free_text(value: &serde_json::Value, role: StringRole) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(_) if role != StringRole::Fixed => Value::from("*"),
        Value::Number(_) if role == StringRole::Endpoint => Value::from("*"),
        Value::Array(items) => items.iter().map(|item| without_free_text(item, role)).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let inner = |name: &String, value: &Value| {
                let quoted = serde_json::to_string(name).unwrap();
                without_free_text(value, json::role_of_token(&quoted, role))
            };
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), inner(name, value))).collect())
        }
        other => other.clone(),
    }
}

#[test]
fn json_with_a_raw_control_character_keeps_its_ids_and_times() {
    let body = b"{\"timestamp\":\"1721651880000\",\"message\":\"a\x01 call 555-2671\",\"caf\xe9Id\":\"555-2671\"}";
    let once = String::from_utf8(all_rules().transcript(body).into_owned()).unwrap();
    assert_eq!(
        once,
        "{\"timestamp\":\"1721651880000\",\"message\":\"a\\u0001 call [phone]\",\"caf\u{fffd}Id\":\"555-2671\"}"
    );
    let whole = b"{\"message\":\"a\x01\"}";
    assert_eq!(&*all_rules().transcript(whole), whole);
}

proptest! {
    #[test]
    fn redaction_is_idempotent(text in any_text()) {
        let once = redacted(&text);
        prop_assert!(matches!(all_rules().text(&once), Cow::Borrowed(_)), "{:?} became {:?}, then {:?}", text, once, redacted(&once));
    }

    #[test]
    fn redaction_of_arbitrary_bytes_is_idempotent(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let once = all_rules().transcript(&bytes).into_owned();
        prop_assert_eq!(all_rules().transcript(&once).into_owned(), once.clone());
        let once = all_rules().summary(&bytes).into_owned();
        prop_assert_eq!(all_rules().summary(&once).into_owned(), once.clone());
    }

    #[test]
    fn json_stays_valid_and_only_free_texts_change(value in any_document(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let once = all_rules().metadata(&text).into_owned();
        let read: serde_json::Value = serde_json::from_str(&once).unwrap();
        prop_assert_eq!(without_free_text(&read, StringRole::Text), without_free_text(&value, StringRole::Text));
        prop_assert!(matches!(all_rules().metadata(&once), Cow::Borrowed(_)));
        prop_assert_eq!(all_rules().transcript(text.as_bytes()).into_owned(), once.into_bytes());
    }
}
