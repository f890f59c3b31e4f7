//! The three ways in: RingCentral and exchange, Engage, and refresh.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::data::has_scope;
use super::reply::Reply;
use super::{Call, Flow, parse_form};
use crate::chance::Dice;
use crate::faults::Fate;
use crate::model::Endpoint;
use crate::tokens::{RefreshRefused, Worth};

const LOGIN: Endpoint = Endpoint::Login;
const JWT_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A field of a form.
fn field<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

impl Call {
    /// The body as a form; anything else is a breach.
    fn form(&self) -> Result<Vec<(String, String)>, Reply> {
        let media = self.header("content-type").unwrap_or("");
        let text = std::str::from_utf8(&self.body).ok();
        let form = text.filter(|_| media.starts_with("application/x-www-form-urlencoded")).and_then(parse_form);
        form.ok_or_else(|| {
            self.violation(format!("login: the body is no form (content type \"{media}\")"));
            self.error(Some(LOGIN), 415, "bad.request", "Unsupported media type")
        })
    }

    fn query(&self) -> Vec<(String, String)> {
        self.uri.query().and_then(parse_form).unwrap_or_default()
    }

    async fn login_fate(&self) -> Result<(Fate, Dice), Reply> {
        let (fate, mut dice) = self.shared.fate(LOGIN, 0);
        self.endure(LOGIN, fate, &mut dice).await?;
        Ok((fate, dice))
    }

    /// Step 1: the RingCentral token.
    pub(super) async fn rc_token(&self) -> Flow {
        self.arrived(LOGIN);
        let (fate, mut dice) = self.login_fate().await?;
        let form = self.form()?;
        let held = self.shared.credentials();
        let expected = STANDARD.encode(format!("{}:{}", held.client_id, held.client_secret));
        if self.header("authorization").and_then(|value| value.strip_prefix("Basic ")) != Some(&expected) {
            return Err(oauth_error(401, "invalid_client", "Invalid client: client_id or secret", "OAU-153"));
        }
        let now = self.shared.clock.tick();
        let issued = match field(&form, "grant_type") {
            JWT_GRANT if field(&form, "assertion") == held.jwt => Some(self.shared.tokens.issue_rc(now)),
            "refresh_token" => self.shared.tokens.rotate_rc(field(&form, "refresh_token"), now),
            JWT_GRANT => None,
            other => {
                self.violation(format!("login: grant_type \"{other}\""));
                return Err(oauth_error(400, "unsupported_grant_type", "Unsupported grant type", "OAU-250"));
            }
        };
        let Some((token, refresh)) = issued else {
            return Err(oauth_error(400, "invalid_grant", "Token not found", "OAU-213"));
        };
        self.shared.stats.lock().rc_logins += 1;
        let life = self.shared.options.tokens.rc_life.as_secs();
        let body = serde_json::json!({
            "access_token": token,
            "token_type": "bearer",
            "expires_in": life,
            "refresh_token": refresh,
            "refresh_token_expires_in": life * 24,
            "scope": self.shared.options.tokens.scope,
            "owner_id": "665127314",
            "endpoint_id": "sim",
        });
        Ok(Reply::json(Some(LOGIN), 200, body.to_string()).suffer(fate, &mut dice))
    }

    /// Counts into the five a minute.
    fn count_exchange(&self) -> Result<(), Reply> {
        self.shared.admit_exchange().map_err(|wait| {
            *self.shared.stats.lock().refused.entry(LOGIN).or_default() += 1;
            self.too_many(LOGIN, wait)
        })
    }

    /// Step 2: the RingCX token.
    pub(super) async fn exchange(&self) -> Flow {
        self.arrived(LOGIN);
        self.count_exchange()?;
        let (fate, mut dice) = self.login_fate().await?;
        let (query, form) = (self.query(), self.form()?);
        if query.iter().any(|(name, _)| name.starts_with("rc")) {
            self.violation("exchange: a token in the URL");
            return Err(self.unauthorised(LOGIN, "Unauthorized"));
        }
        if field(&form, "rcTokenType") != "Bearer" {
            self.violation("exchange: rcTokenType is not Bearer");
            return Err(self.unauthorised(LOGIN, "Unauthorized"));
        }
        match self.shared.tokens.rc_worth(field(&form, "rcAccessToken"), self.shared.clock.tick()) {
            Worth::Good if !has_scope(&self.shared.options.tokens) => {
                Err(self.error(Some(LOGIN), 403, "access.denied.exception", "Missing permission ReadAccounts"))
            }
            Worth::Good => Ok(self.grant(field(&query, "includeRefresh") == "true").suffer(fate, &mut dice)),
            worth => {
                if worth == Worth::Unknown {
                    self.violation("exchange: a token that was never issued");
                }
                Err(self.unauthorised(LOGIN, "Unauthorized"))
            }
        }
    }

    /// Without RingCentral: the Engage login.
    pub(super) async fn engage_login(&self) -> Flow {
        self.arrived(LOGIN);
        self.count_exchange()?;
        let (fate, mut dice) = self.login_fate().await?;
        let (query, held) = (self.query(), self.shared.credentials());
        let good = field(&query, "username") == held.username
            && field(&query, "password") == held.password
            && field(&query, "platformId") == held.platform_id;
        if !good {
            return Err(self.error(Some(LOGIN), 401, "unauthorized", "Invalid username or password"));
        }
        // The contract promises the same answer as the exchange, refresh token included.
        Ok(self.grant(true).suffer(fate, &mut dice))
    }

    fn grant(&self, with_refresh: bool) -> Reply {
        let (now, wall) = (self.shared.clock.tick(), self.shared.now());
        let (access, refresh) = self.shared.tokens.issue(now, wall, with_refresh);
        self.shared.stats.lock().exchanges += 1;
        Reply::json(Some(LOGIN), 200, token_body(&access, refresh.as_deref()))
    }

    /// Step 3: a new token for an old one, which is spent, even where the answer gets lost.
    pub(super) async fn refresh(&self) -> Flow {
        self.arrived(LOGIN);
        let (fate, mut dice) = self.shared.fate(LOGIN, 0);
        let lost = match fate {
            Fate::Truncate | Fate::Malformed | Fate::Slow(_) => true,
            Fate::Status(_) | Fate::Reset(_) => dice.hit(0.5),
            _ => false,
        };
        if !lost {
            self.endure(LOGIN, fate, &mut dice).await?;
        }
        let form = self.form()?;
        let (now, wall) = (self.shared.clock.tick(), self.shared.now());
        let rotated = self.shared.tokens.rotate(field(&form, "refresh_token"), now, wall, !lost);
        if lost {
            self.endure(LOGIN, fate, &mut dice).await?;
        }
        match rotated {
            Ok((access, refresh)) => {
                self.shared.stats.lock().refreshes += 1;
                let body = token_body(&access, refresh.as_deref());
                Ok(Reply::json(Some(LOGIN), 200, body).suffer(fate, &mut dice))
            }
            Err(why) => {
                match why {
                    RefreshRefused::Spent { answered: true } => self.violation("refresh token reused"),
                    RefreshRefused::Unknown => self.violation("refresh: a token that was never issued"),
                    RefreshRefused::Spent { .. } | RefreshRefused::Expired => {}
                }
                Err(self.unauthorised(LOGIN, "Refresh token is not valid"))
            }
        }
    }

    /// Looks at the RingCentral token in `Authorization`.
    pub(super) fn check_rc_token(&self, endpoint: Endpoint) -> Result<(), Reply> {
        let token = self.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        match token.map(|token| self.shared.tokens.rc_worth(token, self.shared.clock.tick())) {
            Some(Worth::Good) => Ok(()),
            Some(_) => Err(self.error(Some(endpoint), 401, "TokenExpired", "Access token expired")),
            None => {
                self.violation(format!("{endpoint}: no RingCentral token"));
                Err(self.error(Some(endpoint), 401, "AGW-402", "Invalid Authorization header"))
            }
        }
    }
}

fn token_body(access: &str, refresh: Option<&str>) -> String {
    let mut body = serde_json::json!({
        "accessToken": access,
        "tokenType": "Bearer",
        "mainAccountId": "1000017",
        "platformId": "sim",
        "adminId": 17,
        "ssoLogin": true,
        "port": 443,
        "agentDetails": [],
    });
    if let Some(refresh) = refresh {
        body["refreshToken"] = refresh.into();
    }
    body.to_string()
}

fn oauth_error(status: u16, error: &str, description: &str, code: &str) -> Reply {
    let body = serde_json::json!({
        "error": error,
        "error_description": description,
        "errors": [{ "errorCode": code, "message": description }],
    });
    Reply::json(Some(LOGIN), status, body.to_string())
}
