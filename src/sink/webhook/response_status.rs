//! Maps a response status to its meaning for the event and the sink. Pure.

use super::super::SinkErrorKind;

/// The kind of error that this status stands for; `None` if the event was accepted.
pub(super) fn classify_status(status: u16, has_retry_after: bool) -> Option<SinkErrorKind> {
    Some(match status {
        200..=299 => return None,
        410 => SinkErrorKind::Gone,
        // Too many requests: this does not depend on the event.
        429 => SinkErrorKind::Unavailable,
        503 if has_retry_after => SinkErrorKind::Unavailable,
        // Timeout, misdirected request, locked, too early: temporary, and not the event's fault.
        408 | 421 | 423 | 425 => SinkErrorKind::Retryable,
        300..=499 => SinkErrorKind::Refused,
        _ => SinkErrorKind::Retryable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_a_retry_cannot_change_is_refused_and_others_are_retryable() {
        use SinkErrorKind::{Gone, Refused, Retryable, Unavailable};
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(classify_status(status, false), None, "{status}");
        }
        let all = [
            (301, Refused),
            (400, Refused),
            (401, Refused),
            (404, Refused),
            (413, Refused),
            (422, Refused),
            (408, Retryable),
            (425, Retryable),
            (500, Retryable),
            (503, Retryable),
            (504, Retryable),
            (429, Unavailable),
            (410, Gone),
        ];
        for (status, kind) in all {
            assert_eq!(classify_status(status, false), Some(kind), "{status}");
        }
        assert_eq!(classify_status(503, true), Some(Unavailable));
    }
}
