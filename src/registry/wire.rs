//! One request to one registry: who we are, how often it is tried, what counts as an answer.
//!
//! - `Authorization` goes to the registry's own scheme, host and port and to its token server,
//!   nowhere else.
//! - A 401 is answered once for each request, at whatever step it comes.
//! - Tried again are requests that got no answer, and the answers that say "not now". What a
//!   registry refuses for good is refused at the first time.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::{RequestBuilder, Response};
use reqwest::{StatusCode, Url};

use super::credentials::Login;
use super::error::{MESSAGE_LIMIT, Refusal, Right};
use super::token::{self, Challenge, Scope, Token};
use super::{RegistryError, Repository};

/// Tries for each request, the first included.
pub(super) const TRIES: u32 = 5;
/// The longest rest between two tries. Who asks for a longer one is not tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Tokens that are kept: one to pull, one to push, and those for mounts.
const TOKENS: usize = 8;

/// What is being done, and what it needs.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// As it stands in errors: `upload blob …`.
    pub(super) action: String,
    pub(super) right: Right,
    /// The repositories that it needs: our own first, as some registries look at that alone.
    pub(super) scopes: Vec<Scope>,
}

/// Makes a request anew, for each try.
pub(super) type Make<'a> = dyn Fn() -> Result<RequestBuilder, RegistryError> + 'a;

/// What is known of how this registry wants us to say who we are.
#[derive(Default)]
pub(super) struct Known {
    challenge: Option<Challenge>,
    tokens: Vec<Token>,
}

impl Repository {
    pub(super) fn task(&self, right: Right, action: impl Into<String>) -> Task {
        let scopes = vec![Scope::new(&self.name, right)];
        Task { action: action.into(), right, scopes }
    }

    /// An address below the repository.
    pub(super) fn address(&self, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{rest}", self.name));
        url
    }

    /// A request that may be repeated, until it is answered for good.
    pub(super) fn send(&self, task: &Task, make: &Make<'_>) -> Result<Response, RegistryError> {
        self.send_tries(task, TRIES, make)
    }

    /// As [`Repository::send`], with another number of tries; saying who we are counts as none.
    pub(super) fn send_tries(
        &self,
        task: &Task,
        tries: u32,
        make: &Make<'_>,
    ) -> Result<Response, RegistryError> {
        let mut asked = false;
        let mut attempt = 1;
        loop {
            match self.once(task, make) {
                Ok((response, used)) if response.status() == StatusCode::UNAUTHORIZED && !asked => {
                    asked = true;
                    if !self.learn(task, &response, used.as_deref())? {
                        return Ok(response);
                    }
                }
                Ok((response, _)) if may_pass(response.status()) && attempt < tries => {
                    match self.pause(&response, attempt) {
                        Some(pause) => thread::sleep(pause),
                        None => return Ok(response),
                    }
                    attempt += 1;
                }
                Err(RegistryError::Unreachable { source, .. })
                    if attempt < tries && !self.is_hopeless(&source) =>
                {
                    self.rest(attempt);
                    attempt += 1;
                }
                other => return other.map(|(response, _)| response),
            }
        }
    }

    /// Nobody listens at a mirror, and others can be asked; or who listens is not who we want, or
    /// does not want us.
    fn is_hopeless(&self, error: &reqwest::Error) -> bool {
        let mut text = String::new();
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(cause) = next {
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        (self.is_mirror && error.is_connect())
            || error.is_redirect()
            || ["certificate", "InvalidContentType", "proxy authorization"]
                .iter()
                .any(|word| text.contains(word))
    }

    /// One try, and the token that it was made with.
    pub(super) fn once(
        &self,
        task: &Task,
        make: &Make<'_>,
    ) -> Result<(Response, Option<String>), RegistryError> {
        let token = self.token(task)?;
        let mut request = make()?;
        match (&token, &self.login) {
            (Some(token), _) | (None, Login::Token(token)) => request = request.bearer_auth(token),
            (None, Login::Password { user, password }) => {
                request = request.basic_auth(user, Some(password));
            }
            (None, Login::Identity(_) | Login::Nobody) => {}
        }
        match request.send() {
            Ok(response) => Ok((response, token)),
            Err(source) => Err(self.unreachable(&task.action, source)),
        }
    }

    /// A token that serves; `None` where none is wanted, as far as is known.
    fn token(&self, task: &Task) -> Result<Option<String>, RegistryError> {
        let challenge = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(challenge) = known.challenge.clone() else { return Ok(None) };
            let now = Instant::now();
            if let Some(token) = known.tokens.iter().find(|token| token.serves(&task.scopes, now)) {
                return Ok(Some(token.text.clone()));
            }
            challenge
        };
        self.fetch_token(task, &challenge, None).map(Some)
    }

    /// Finds out from a 401 what is wanted. Says whether asking again makes sense.
    fn learn(
        &self,
        task: &Task,
        response: &Response,
        used: Option<&str>,
    ) -> Result<bool, RegistryError> {
        // What another host asks for, to which we were redirected, is not ours to give.
        if response.url().origin() != self.base.origin() {
            return Ok(false);
        }
        let challenge = response
            .headers()
            .get_all("www-authenticate")
            .iter()
            .find_map(|value| token::challenge(value.to_str().ok()?));
        // A token that was given to us cannot be had anew.
        let (Some(challenge), false) = (challenge, matches!(self.login, Login::Token(_))) else {
            return Ok(false);
        };
        self.fetch_token(task, &challenge, used)?;
        Ok(true)
    }

    /// Gets a token, one thread at a time: `refused` is the one that is of no use any more, and
    /// one that another thread got meanwhile serves as well.
    fn fetch_token(
        &self,
        task: &Task,
        challenge: &Challenge,
        refused: Option<&str>,
    ) -> Result<String, RegistryError> {
        let _one_at_a_time = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let scopes = challenge.scopes(&task.scopes);
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.tokens.retain(|token| Some(token.text.as_str()) != refused);
            let now = Instant::now();
            if let Some(token) = known.tokens.iter().find(|token| token.serves(&scopes, now)) {
                return Ok(token.text.clone());
            }
        }
        let asking = Task { action: "get a token".to_owned(), ..task.clone() };
        let text = self.ask_for_token(&asking, challenge, &scopes)?;
        let token = Token::parse(&text, scopes, Instant::now())
            .ok_or_else(|| self.odd(&asking, "the answer holds none".to_owned()))?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.challenge = Some(challenge.without_scope());
        if known.tokens.len() == TOKENS {
            known.tokens.remove(0);
        }
        let text = token.text.clone();
        known.tokens.push(token);
        Ok(text)
    }

    fn ask_for_token(
        &self,
        task: &Task,
        challenge: &Challenge,
        scopes: &[Scope],
    ) -> Result<String, RegistryError> {
        let wrong = |problem| self.odd(task, problem);
        let address = challenge.address(scopes, &self.base).map_err(wrong)?;
        let realm = challenge.realm(&self.base).map_err(wrong)?;
        let mut attempt = 1;
        let response = loop {
            let request = match &self.login {
                Login::Identity(identity) => self
                    .client
                    .post(realm.clone())
                    .header("Content-Type", "application/x-www-form-urlencoded")
                    .body(challenge.form(scopes, identity)),
                Login::Password { user, password } => {
                    self.client.get(address.clone()).basic_auth(user, Some(password))
                }
                Login::Token(_) | Login::Nobody => self.client.get(address.clone()),
            };
            match request.send() {
                Ok(response) if may_pass(response.status()) && attempt < TRIES => {
                    match self.pause(&response, attempt) {
                        Some(pause) => thread::sleep(pause),
                        None => break response,
                    }
                }
                Ok(response) => break response,
                Err(source) if attempt < TRIES && !self.is_hopeless(&source) => self.rest(attempt),
                Err(source) => return Err(self.unreachable(&task.action, source)),
            }
            attempt += 1;
        };
        if !response.status().is_success() {
            return Err(self.refused(task, response));
        }
        let mut text = String::new();
        let length = response
            .take(MESSAGE_LIMIT + 1)
            .read_to_string(&mut text)
            .map_err(|error| self.odd(task, error.to_string()))?;
        if length as u64 > MESSAGE_LIMIT {
            return Err(self.odd(task, format!("it sends more than {MESSAGE_LIMIT} bytes")));
        }
        Ok(text)
    }

    pub(super) fn refused(&self, task: &Task, response: Response) -> RegistryError {
        let wait = asked_pause(&response).filter(|asked| *asked > LONGEST_PAUSE);
        RegistryError::Refused {
            action: task.action.clone(),
            repository: self.to_string(),
            right: task.right,
            refusal: Box::new(Refusal::read(response, wait, self.pace.silence)),
        }
    }

    pub(super) fn odd(&self, task: &Task, problem: String) -> RegistryError {
        let (action, repository) = (task.action.clone(), self.to_string());
        RegistryError::Protocol { action, repository, problem }
    }

    pub(super) fn broke(&self, task: &Task, source: std::io::Error) -> RegistryError {
        let (action, repository) = (task.action.clone(), self.to_string());
        RegistryError::Broken { action, repository, source }
    }

    fn unreachable(&self, action: &str, source: reqwest::Error) -> RegistryError {
        let (action, repository) = (action.to_owned(), self.to_string());
        RegistryError::Unreachable { action, repository, source: source.without_url() }
    }

    /// What the registry asks for, or a growing pause; `None` when it asks for too much.
    pub(super) fn pause(&self, response: &Response, attempt: u32) -> Option<Duration> {
        match asked_pause(response) {
            Some(asked) if asked > LONGEST_PAUSE => None,
            // Not before, and not all at once.
            Some(asked) => Some(asked + self.growing(1)),
            None => Some(self.growing(attempt)),
        }
    }

    /// Waits, longer with each try.
    pub(super) fn rest(&self, attempt: u32) {
        thread::sleep(self.growing(attempt));
    }

    /// Doubled with each try, and between three quarters and five quarters of that, so that many
    /// who were refused together do not come again together.
    fn growing(&self, attempt: u32) -> Duration {
        let whole = self.pace.pause * (1 << (attempt - 1).min(6));
        // The standard library's hash maps are seeded by chance; nothing that is kept depends
        // on this number.
        let chance = RandomState::new().build_hasher().finish() % 512;
        let chance = u32::try_from(chance).unwrap_or_default();
        (whole * (768 + chance) / 1024).min(LONGEST_PAUSE)
    }
}

/// Whether an answer may be another one later.
pub(super) fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 499 | 500 | 502 | 503 | 504 | 522)
}

/// A header as text.
pub(super) fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn asked_pause(response: &Response) -> Option<Duration> {
    wait(header(response, "retry-after")?, header(response, "date"))
}

/// `Retry-After` as a duration: seconds, or a time, seen from the answer's own. One that is
/// over says nothing.
fn wait(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = retry_after.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = http_date(retry_after)?.checked_sub(http_date(date?)?)?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Seconds since a fixed moment for `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7), the form
/// that servers must send. Enough to tell two such times apart.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    if !(1900..10_000).contains(&year) || day > 31 {
        return None;
    }
    let mut parts = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests;
