//! The expiry of credentials that hold one, and the warning before it. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::clock::{Time, millis};

use super::token::jwt_claims;

/// Warnings start this long before the expiry.
const EXPIRY_WARNING_PERIOD: Duration = Duration::from_secs(30 * 86_400);

/// The warning about a credential that expires soon or has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiryWarning {
    /// Whether it has expired.
    pub is_expired: bool,
    /// The warning as a sentence, without a final full stop.
    pub sentence: String,
    /// What an operator can do.
    pub hint: &'static str,
}

/// The warning about credentials that expire at `expires`; `None` while that is far off.
pub fn expiry_warning(expires: Time, now: Time) -> Option<ExpiryWarning> {
    let (left, is_expired) = (expires.since(now), expires <= now);
    if left > EXPIRY_WARNING_PERIOD {
        return None;
    }
    let at = expires.rfc3339_secs();
    let sentence = match (is_expired, left.as_secs() / 86_400) {
        (true, _) => format!("the login's JWT credential ended at {at}: RingCentral refuses it"),
        (false, 0) => format!("the login's JWT credential ends at {at}, in less than a day"),
        (false, 1) => format!("the login's JWT credential ends at {at}, in 1 day"),
        (false, days) => format!("the login's JWT credential ends at {at}, in {days} days"),
    };
    let hint = "create a new JWT in the RingCentral developer portal (your name's menu, Credentials), for the same app, and put \
                it into auth.jwt, or into the file of auth.jwt_file";
    Some(ExpiryWarning { is_expired, sentence, hint })
}

/// When a token expires, if it is a JWT with an expiry.
pub(super) fn token_expiry(text: &str) -> Option<Time> {
    let claims = jwt_claims(text)?;
    let exp = match claims.get("exp")? {
        Value::String(text) => text.trim().parse().ok()?,
        other => other.as_f64()?,
    };
    // Seconds by the standard; a number this large is milliseconds.
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
    fn the_warning_starts_in_the_last_month_and_tells_when_the_credential_has_expired() {
        let end = Time::from_secs(2_000_000_000);
        let at = |before: Duration| expiry_warning(end, end - before);
        let days = |count: u64| Duration::from_secs(86_400 * count);
        assert_eq!(at(days(30) + Duration::from_secs(1)), None);
        assert!(at(days(30)).is_some_and(|found| !found.is_expired && found.sentence.ends_with("in 30 days")));
        assert!(at(days(1)).is_some_and(|found| found.sentence.ends_with("in 1 day")));
        assert!(at(days(0) + Duration::from_secs(1)).is_some_and(|found| found.sentence.contains("less than a day")));
        assert!(at(Duration::ZERO).is_some_and(|found| found.is_expired && found.hint.contains("auth.jwt_file")));
        assert!(expiry_warning(end, end + days(400)).is_some_and(|found| found.is_expired));
    }

    #[test]
    fn the_expiry_is_read_in_every_form_and_may_be_absent() {
        for payload in
            [r#"{"exp":1800000000}"#, r#"{"exp":"1800000000"}"#, r#"{"exp":1.8e9}"#, r#"{"exp":1800000000000}"#]
        {
            assert_eq!(token_expiry(&jwt(payload)), Some(Time::from_secs(1_800_000_000)), "{payload}");
        }
        for payload in ["{}", r#"{"exp":null}"#, r#"{"exp":"soon"}"#, r#"{"exp":-5}"#, "garbage"] {
            assert_eq!(token_expiry(&jwt(payload)), None, "{payload}");
        }
        assert_eq!(token_expiry("a permanent token"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(payload in ".*", exp in any::<f64>(), now in any::<i64>()) {
            for text in [jwt(&payload), jwt(&format!(r#"{{"exp":{exp}}}"#)), payload] {
                if let Some(end) = token_expiry(&text) {
                    let _ = expiry_warning(end, Time(now));
                }
            }
        }
    }
}
