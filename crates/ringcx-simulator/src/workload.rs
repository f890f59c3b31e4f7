//! A workload like that of real contact centres, for benchmarks and the demo: conversations that
//! all differ.
//!
//! Words follow Zipf's law over [`VOCABULARY_SIZE`] words. Lengths vary as in real conversations,
//! and names, numbers, ids and times differ. Everything depends on the seed alone. Pure.
//!
//! | what | distribution |
//! | --- | --- |
//! | phrases of a conversation | 4 to 200, median 40 |
//! | characters of a phrase | 5 to 300, median 55 |
//! | characters of a summary | 200 to 900 |
//! | languages | mostly Latin letters, some with accents; Chinese or Japanese in 2 % of phrases, emoji in 1 % |

use std::collections::HashSet;
use std::fmt::Write as _;

use super::rng::Rng;
use crate::clock::Time;

/// The number of different words, apart from names and numbers.
pub const VOCABULARY_SIZE: usize = 50_000;
/// The number of agents.
pub const AGENT_COUNT: u64 = 300;

const SYLLABLES: [&str; 40] = [
    "re", "ta", "mo", "li", "ser", "con", "do", "pan", "vi", "ken", "su", "tra", "ne", "ga", "bor", "fi", "ul", "chi",
    "pe", "dra", "an", "is", "ló", "mü", "sta", "ver", "qui", "ho", "ble", "nor", "ré", "zu", "wai", "gre", "ti", "ño",
    "cam", "ox", "ye", "lum",
];
/// The most frequent words.
const COMMON_WORDS: [&str; 60] = [
    "the", "you", "i", "to", "and", "a", "that", "it", "is", "for", "your", "in", "of", "my", "on", "have", "can",
    "me", "so", "with", "we", "this", "be", "not", "was", "do", "what", "order", "will", "just", "yes", "at", "please",
    "but", "thank", "call", "number", "know", "account", "are", "if", "no", "okay", "from", "see", "let", "get", "one",
    "right", "there", "time", "card", "refund", "late", "payment", "parcel", "ticket", "agent", "name", "money",
];
const FIRST_NAMES: [&str; 24] = [
    "Jane", "Zoë", "Ahmed", "María", "Joe", "Wei", "Ann", "Björn", "Olga", "Pablo", "Chloé", "Ravi", "Łucja", "Tom",
    "Aiko", "Kofi", "Sofía", "Liam", "Noor", "Eva", "Deniz", "Ruth", "Ivan", "Grace",
];
const LAST_NAMES: [&str; 24] = [
    "Doe",
    "Ångström",
    "Smith",
    "Silva",
    "O'Neil",
    "Li",
    "Baker",
    "Novák",
    "Moreno",
    "Park",
    "Müller",
    "Rao",
    "Kowalska",
    "Reed",
    "Tanaka",
    "Mensah",
    "Gómez",
    "Walsh",
    "Haddad",
    "Berg",
    "Yılmaz",
    "Stone",
    "Petrov",
    "Young",
];
const IDEOGRAPHS: &str = "您好我想查询订单号码退款什么时候可以到账请稍等这边帮确认一下配送地址没有问题谢谢お待たせいたしましたご注文の番号を確認します返金は明日までに届きます";
const EMOJI: [&str; 6] = ["😊", "👍🏽", "🙏", "😡", "🎉", "👨‍👩‍👧‍👦"];

/// A generator of conversations. The nth conversation is the same for equal seeds.
#[derive(Debug, Clone)]
pub struct Workload {
    seed: u64,
    words: Vec<String>,
}

/// What a number of conversations amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkloadFigures {
    /// Conversations that were counted.
    pub conversations: u64,
    /// Bytes of their transcripts and summaries as sent.
    pub bytes: u64,
    /// Words in them, the names of the JSON's keys included, without numbers.
    pub words: u64,
    /// Different words in them.
    pub distinct_words: u64,
}

impl Workload {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Workload {
        let word = |number: usize| match COMMON_WORDS.get(number) {
            Some(word) => (*word).to_owned(),
            None => {
                let (mut left, mut word) = (number, String::new());
                while left > 0 || word.is_empty() {
                    word.push_str(SYLLABLES[left % SYLLABLES.len()]);
                    left /= SYLLABLES.len();
                }
                word
            }
        };
        Workload { seed, words: (0..VOCABULARY_SIZE).map(word).collect() }
    }

    /// The words, the most frequent one first.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The id of a segment: random, so that ids are in no order. The last eight digits are the
    /// number, below 2^32.
    pub fn segment_id(&self, number: u64) -> String {
        let mut rng = self.rng(number, 0);
        format!("{:016x}{:08x}{:08x}", rng.next_u64(), rng.next_u64() as u32, number as u32)
    }

    /// The id of a segment's dialog.
    pub fn dialog_id(&self, number: u64) -> String {
        let mut rng = self.rng(number, 1);
        format!("{:016x}-{:016x}", rng.next_u64(), rng.next_u64())
    }

    /// The record of a segment in a metadata answer. About 70 % have a transcript; `has_transcript`
    /// overrides that.
    pub fn record(&self, number: u64, sub_account: &str, end: Time, has_transcript: Option<bool>) -> String {
        let mut rng = self.rng(number, 2);
        let duration = log_normal(&mut rng, 240_000.0, 0.9, 5_000.0, 5_400_000.0) as i64;
        let (begin, agent) = (end.plus_millis(-duration), self.agent(number));
        let has_transcript = has_transcript.unwrap_or(rng.random_bool(0.7));
        let voice = rng.random_bool(0.8);
        let (class, kind) = match voice {
            true => ("VOICE", "VOICE"),
            false => ("DIGITAL", rng.choose(&["CHAT", "EMAIL", "WHATSAPP"])),
        };
        let notes = self.notes(&mut rng).map_or_else(|| "null".to_owned(), |notes| format!("\"{notes}\""));
        let disposition =
            rng.choose(&["Success", "Success", "Success", "Call back", "No answer", "Sale", "Complaint", "Escalated"]);
        let origin = if rng.random_bool(0.75) { "INBOUND" } else { "OUTBOUND" };
        format!(
            r#"{{"subAccountId":"{sub_account}","dialogId":"{dialog}","interactionId":"2026{interaction:026}","channelId":"+1650555{line:04}","channelType":"{kind}","channelClass":"{class}","channelEndpointAddress":"+1650555{line:04}","contactEndpointAddress":"{contact}","dialogOrigination":"{origin}","dialogStartTimeMs":"{begin}","dialogEndTimeMs":"{end}","dialogDurationMs":{duration},"segmentId":"{segment}","segmentType":"AGENT","segmentParticipantId":"{id}","segmentParticipantRcExtensionId":"{extension}","segmentStartTimeMs":"{begin}","segmentEndTimeMs":"{end}","segmentDurationMs":{duration},"segmentAgentGroupId":"{group}","systemDisposition":"ANSWER","agentDisposition":"{disposition}","agentNotes":{notes},"hasRecording":{voice},"hasTranscript":{has_transcript},"segmentEvents":null}}"#,
            dialog = self.dialog_id(number),
            interaction = rng.next_u64(),
            line = rng.random_below(40),
            contact = self.contact_number(number),
            begin = begin.rfc3339(),
            end = end.rfc3339(),
            segment = self.segment_id(number),
            id = 400_000 + agent,
            extension = 985_000_000 + agent,
            group = 70_000 + agent % 12,
        )
    }

    /// The transcript of a segment.
    pub fn transcript(&self, number: u64) -> String {
        let mut rng = self.rng(number, 3);
        let count = phrase_count(&mut rng);
        let (agent, contact) = (self.agent(number), self.contact_number(number));
        // Callers without a known name are shown by their number.
        let contact_name = match rng.random_bool(0.5) {
            true => contact.clone(),
            false => person_name(rng.random_below(500_000)),
        };
        let agent_name = person_name(agent);
        let mut at = 1_700_000_000_000 + number * 3_000;
        let mut out = String::with_capacity(300 * count as usize);
        out.push_str(r#"{"channelClass":"VOICE","errorCode":null,"errorMessage":null,"transcript":["#);
        for nth in 0..count {
            let from_agent = rng.random_bool(0.5);
            at += 300 + rng.random_below(9_000);
            let (id, name, kind) = match from_agent {
                true => (format!("{}", 400_000 + agent), &agent_name, "agent"),
                false => (contact.clone(), &contact_name, "contact"),
            };
            let comma = if nth == 0 { "" } else { "," };
            push(
                &mut out,
                format_args!(
                    r#"{comma}{{"participantId":"{id}","participantName":"{name}","participantType":"{kind}","rcUserId":null,"timestamp":"{at}","message":"{}"}}"#,
                    self.phrase(&mut rng)
                ),
            );
        }
        out.push_str("]}");
        out
    }

    /// A summary of a segment: `kind` 0 is the agent's, 1 the automatic one.
    pub fn summary(&self, number: u64, kind: u64) -> String {
        self.summary_text(&mut self.rng(number, 4 + kind))
    }

    /// A phrase of a conversation.
    pub(super) fn phrase(&self, rng: &mut Rng) -> String {
        let length = log_normal(rng, 55.0, 0.9, 5.0, 300.0) as usize;
        self.sentence(rng, length)
    }

    /// The text of a summary.
    pub(super) fn summary_text(&self, rng: &mut Rng) -> String {
        let length = 200 + rng.random_below(700) as usize;
        let mut out = String::with_capacity(length + 80);
        while out.chars().count() < length {
            out.push_str(if out.is_empty() { "" } else { " " });
            let left = length - out.chars().count();
            out.push_str(&self.sentence(rng, left.min(120)));
        }
        out
    }

    /// The agent's notes; most agents write none.
    pub(super) fn notes(&self, rng: &mut Rng) -> Option<String> {
        rng.random_bool(0.2).then(|| self.sentence(rng, 120))
    }

    /// What the first conversations amount to.
    pub fn figures(&self, conversations: u64) -> WorkloadFigures {
        let (mut bytes, mut words, mut distinct) = (0, 0, HashSet::new());
        for number in 0..conversations {
            for text in [self.transcript(number), self.summary(number, 0), self.summary(number, 1)] {
                bytes += text.len() as u64;
                for word in text
                    .split(|letter: char| !letter.is_alphanumeric())
                    .filter(|word| word.starts_with(char::is_alphabetic))
                {
                    words += 1;
                    if !distinct.contains(word) {
                        distinct.insert(word.to_owned());
                    }
                }
            }
        }
        WorkloadFigures { conversations, bytes, words, distinct_words: distinct.len() as u64 }
    }

    fn rng(&self, number: u64, part: u64) -> Rng {
        Rng::new(self.seed, &[number, part])
    }

    /// The agent of a segment, less than [`AGENT_COUNT`]; its name is [`person_name`].
    pub fn agent(&self, number: u64) -> u64 {
        self.rng(number, 8).random_below(AGENT_COUNT)
    }

    /// The phone number of a segment's contact, with a plus sign.
    pub fn contact_number(&self, number: u64) -> String {
        // One in five has called before.
        let mut rng = self.rng(number, 9);
        let caller = if rng.random_bool(0.2) { number / 7 } else { number };
        format!("+1{:010}", Rng::new(self.seed, &[caller, 10]).random_below(10_000_000_000))
    }

    /// The number in a segment's id, see [`Workload::segment_id`].
    pub fn number_of(segment_id: &str) -> Option<u64> {
        let at = segment_id.len().checked_sub(8)?;
        u64::from_str_radix(segment_id.get(at..)?, 16).ok()
    }

    /// A sentence of about so many characters, without characters that JSON escapes.
    fn sentence(&self, rng: &mut Rng, length: usize) -> String {
        if rng.random_bool(0.02) {
            let all: Vec<char> = IDEOGRAPHS.chars().collect();
            return (0..length.div_ceil(2)).map(|_| rng.choose(&all)).collect();
        }
        let mut out = String::with_capacity(length + 16);
        while out.len() < length {
            if !out.is_empty() {
                out.push(' ');
            }
            if rng.random_bool(0.02) {
                let digits = rng.random_below(9) as u32 + 1;
                push(&mut out, format_args!("{}", rng.random_below(10_u64.pow(digits))));
            } else {
                // The nth word has a share of 1/n.
                let rank = (self.words.len() as f64).powf(rng.next_f64()) as usize;
                out.push_str(&self.words[rank.clamp(1, self.words.len()) - 1]);
            }
        }
        if let Some(first) = out.get(..1) {
            let first = first.to_uppercase();
            out.replace_range(..1, &first);
        }
        out.push_str(rng.choose(&[".", ".", "?", "!", ""]));
        if rng.random_bool(0.01) {
            push(&mut out, format_args!(" {}", rng.choose(&EMOJI)));
        }
        out
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

/// The number of phrases of a conversation.
pub(super) fn phrase_count(rng: &mut Rng) -> u64 {
    log_normal(rng, 40.0, 0.8, 4.0, 200.0) as u64
}

/// The name of a person by number; names repeat after 576.
pub fn person_name(number: u64) -> String {
    let (first, last) = (number as usize % FIRST_NAMES.len(), number as usize / FIRST_NAMES.len());
    format!("{} {}", FIRST_NAMES[first], LAST_NAMES[last % LAST_NAMES.len()])
}

/// A draw from a log-normal distribution with this median, within bounds.
fn log_normal(rng: &mut Rng, median: f64, sigma: f64, least: f64, most: f64) -> f64 {
    // Box and Muller; the first draw must not be 0.
    let (radius, angle) = ((-2.0 * (1.0 - rng.next_f64()).ln()).sqrt(), std::f64::consts::TAU * rng.next_f64());
    (median * (sigma * radius * angle.cos()).exp()).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_differ_and_are_as_long_as_they_should_be() {
        let workload = Workload::new(1);
        let mut counts: Vec<usize> = Vec::new();
        for number in 0..400 {
            let body: serde_json::Value = serde_json::from_str(&workload.transcript(number)).unwrap();
            let phrases = body["transcript"].as_array().unwrap();
            assert!(phrases.iter().all(|phrase| phrase["message"].as_str().unwrap().chars().count() <= 330));
            counts.push(phrases.len());
            let length = workload.summary(number, 0).chars().count();
            assert!((200..=980).contains(&length), "{length}");
        }
        counts.sort_unstable();
        assert!(counts[0] >= 4 && counts[399] <= 200 && (32..48).contains(&counts[200]), "{counts:?}");
        assert_eq!(workload.transcript(3), Workload::new(1).transcript(3));
        assert_ne!(workload.transcript(3), Workload::new(2).transcript(3));
        assert_ne!(workload.summary(3, 0), workload.summary(3, 1));
    }

    #[test]
    fn records_are_json_with_ids_of_their_own_and_words_follow_zipfs_law() {
        let workload = Workload::new(1);
        let mut ids = HashSet::new();
        for number in 0..2000 {
            let record = workload.record(number, "7", Time(1_800_000_000_000), None);
            let record: serde_json::Value = serde_json::from_str(&record).unwrap();
            assert!(ids.insert(record["segmentId"].as_str().unwrap().to_owned()));
        }
        assert_eq!(workload.words().iter().collect::<HashSet<_>>().len(), VOCABULARY_SIZE);
        let figures = workload.figures(300);
        assert!(figures.distinct_words > 10_000 && figures.words > 10 * figures.distinct_words, "{figures:?}");
    }
}
