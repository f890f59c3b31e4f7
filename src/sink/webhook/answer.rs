//! What a status means for an event and its sink. Pure.

use super::super::SinkErrorKind;

/// What an answer of this status means; `None` where the event was taken.
pub(super) fn meaning(status: u16, asks_to_wait: bool) -> Option<SinkErrorKind> {
    Some(match status {
        200..=299 => return None,
        410 => SinkErrorKind::Gone,
        // It says that it is too much at present, whatever the event.
        429 => SinkErrorKind::Away,
        503 if asks_to_wait => SinkErrorKind::Away,
        // A time-out, a wrong connection, a lock, too early: of a moment, not of the event.
        408 | 421 | 423 | 425 => SinkErrorKind::Event,
        300..=499 => SinkErrorKind::Refused,
        _ => SinkErrorKind::Event,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asking_again_cannot_change_is_refused_and_the_rest_is_for_later() {
        use SinkErrorKind::{Away, Event, Gone, Refused};
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(meaning(status, false), None, "{status}");
        }
        let all = [
            (301, Refused),
            (400, Refused),
            (401, Refused),
            (404, Refused),
            (413, Refused),
            (422, Refused),
            (408, Event),
            (425, Event),
            (500, Event),
            (503, Event),
            (504, Event),
            (429, Away),
            (410, Gone),
        ];
        for (status, kind) in all {
            assert_eq!(meaning(status, false), Some(kind), "{status}");
        }
        assert_eq!(meaning(503, true), Some(Away));
    }
}
