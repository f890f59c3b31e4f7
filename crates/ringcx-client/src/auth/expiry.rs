//! When a credential ends that says so itself, and what to tell people about it. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::clock::{Time, millis};

use super::token::claims;

/// So long before its end a credential is warned about.
const WARN_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// A credential that ends soon, or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Whether it has.
    pub over: bool,
    /// What is wrong, without a final dot.
    pub sentence: String,
    /// What to do.
    pub hint: &'static str,
}

/// What there is to say about credentials that end at `expires`: nothing while that is far off.
pub fn expiry(expires: Time, now: Time) -> Option<Expiry> {
    let (left, over) = (expires.since(now), expires <= now);
    if left > WARN_BEFORE {
        return None;
    }
    let at = expires.rfc3339_secs();
    let sentence = match (over, left.as_secs() / 86_400) {
        (true, _) => format!("the login's JWT credential ended at {at}: RingCentral refuses it"),
        (false, 0) => format!("the login's JWT credential ends at {at}, in less than a day"),
        (false, 1) => format!("the login's JWT credential ends at {at}, in 1 day"),
        (false, days) => format!("the login's JWT credential ends at {at}, in {days} days"),
    };
    let hint = "create a new JWT in the RingCentral developer portal (your name's menu, Credentials), for the same app, and put \
                it into auth.jwt, or into the file of auth.jwt_file";
    Some(Expiry { over, sentence, hint })
}

/// When a token ends, if it is a JWT that says so.
pub(super) fn of_token(text: &str) -> Option<Time> {
    let claims = claims(text)?;
    let exp = match claims.get("exp")? {
        Value::String(text) => text.trim().parse().ok()?,
        other => other.as_f64()?,
    };
    // Seconds, as the standard says; so large a number is milliseconds.
    let seconds = if exp > 1e11 { exp / 1000.0 } else { exp };
    (seconds.is_finite() && seconds > 0.0)
        .then(|| Time(millis(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn a_credential_is_warned_about_in_its_last_month_and_told_when_it_is_over() {
        let end = Time::from_secs(2_000_000_000);
        let at = |before: Duration| expiry(end, end - before);
        let days = |count: u64| Duration::from_secs(86_400 * count);
        assert_eq!(at(days(30) + Duration::from_secs(1)), None);
        assert!(at(days(30)).is_some_and(|found| !found.over && found.sentence.ends_with("in 30 days")));
        assert!(at(days(1)).is_some_and(|found| found.sentence.ends_with("in 1 day")));
        assert!(at(days(0) + Duration::from_secs(1)).is_some_and(|found| found.sentence.contains("less than a day")));
        assert!(at(Duration::ZERO).is_some_and(|found| found.over && found.hint.contains("auth.jwt_file")));
        assert!(expiry(end, end + days(400)).is_some_and(|found| found.over));
    }

    #[test]
    fn the_end_is_read_in_every_form_and_what_says_nothing_has_none() {
        for payload in
            [r#"{"exp":1800000000}"#, r#"{"exp":"1800000000"}"#, r#"{"exp":1.8e9}"#, r#"{"exp":1800000000000}"#]
        {
            assert_eq!(of_token(&jwt(payload)), Some(Time::from_secs(1_800_000_000)), "{payload}");
        }
        for payload in ["{}", r#"{"exp":null}"#, r#"{"exp":"soon"}"#, r#"{"exp":-5}"#, "garbage"] {
            assert_eq!(of_token(&jwt(payload)), None, "{payload}");
        }
        assert_eq!(of_token("a permanent token"), None);
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(payload in ".*", exp in any::<f64>(), now in any::<i64>()) {
            for text in [jwt(&payload), jwt(&format!(r#"{{"exp":{exp}}}"#)), payload] {
                if let Some(end) = of_token(&text) {
                    let _ = expiry(end, Time(now));
                }
            }
        }
    }
}
