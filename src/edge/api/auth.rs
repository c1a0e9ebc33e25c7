//! Who may use the API.

use std::io::{self, Read as _};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::error::{ApiError, Style};
use model::Isolation;

/// The bytes of chance in a key.
const KEY_BYTES: usize = 32;
/// Begins the WebSocket protocol that is a key.
const KEY_PROTOCOL: &str = "bearer.";
/// What can be asked without a key.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

/// The keys that hold now; cheap to clone, and all clones see them exchanged.
#[derive(Debug, Clone)]
pub struct Auth(Arc<RwLock<Keys>>);

/// The keys, as digests: what is compared says nothing about what was sent.
#[derive(Debug)]
struct Keys {
    keys: Vec<Key>,
    /// What anybody may do, when no key is needed.
    anybody: Option<Pass>,
}

#[derive(Debug)]
struct Key {
    digest: [u8; 32],
    pass: Pass,
}

/// What whoever has passed may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// The weakest isolation that a sandbox of theirs may have.
    pub min_isolation: Isolation,
}

impl Pass {
    /// The isolation of a sandbox for which one was asked or none.
    ///
    /// # Errors
    /// It is weaker than it must be.
    pub(super) fn isolation(self, style: Style, asked: Option<Isolation>) -> Result<Isolation, ApiError> {
        let given = asked.unwrap_or(self.min_isolation);
        if given >= self.min_isolation {
            return Ok(given);
        }
        let text = format!(
            "isolation {:?} is weaker than this key may use: {:?} is the least",
            given.as_str(),
            self.min_isolation.as_str()
        );
        Err(style.error(StatusCode::FORBIDDEN, "forbidden", text))
    }
}

impl Auth {
    /// Takes keys and what each may do; `anybody`: no key is needed for that.
    pub fn new(keys: &[(&str, Pass)], anybody: Option<Pass>) -> Self {
        Self(Arc::new(RwLock::new(Keys::new(keys, anybody))))
    }

    /// Exchanges all keys for others; requests that have passed go on.
    pub fn replace(&self, keys: &[(&str, Pass)], anybody: Option<Pass>) {
        let keys = Keys::new(keys, anybody);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Says whether a request may pass, and what it may do then.
    pub(super) fn admits(&self, path: &str, headers: &HeaderMap) -> Option<Pass> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).admits(path, headers)
    }

    /// Says whether a request passes without a known key to what is not open to all. A page of somebody else can
    /// make a browser send such a request.
    pub(super) fn admits_anybody(&self, path: &str, headers: &HeaderMap) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).admits_anybody(path, headers)
    }
}

impl Keys {
    fn new(keys: &[(&str, Pass)], anybody: Option<Pass>) -> Self {
        let keys = keys.iter().map(|&(key, pass)| Key { digest: digest(key.as_bytes()), pass }).collect();
        Self { keys, anybody }
    }

    fn admits(&self, path: &str, headers: &HeaderMap) -> Option<Pass> {
        if self.anybody.is_some() {
            return self.anybody;
        }
        if OPEN.contains(&path) {
            return Some(Pass { min_isolation: Isolation::default() });
        }
        self.known(headers)
    }

    fn admits_anybody(&self, path: &str, headers: &HeaderMap) -> bool {
        self.anybody.is_some() && !OPEN.contains(&path) && self.known(headers).is_none()
    }

    /// Finds the key that a request has brought.
    fn known(&self, headers: &HeaderMap) -> Option<Pass> {
        if !headers.contains_key(header::AUTHORIZATION) && headers.contains_key(header::UPGRADE) {
            return offered_key(headers).and_then(|key| self.knows(&key));
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, key) = value.to_str().ok().and_then(|v| v.split_once(' '))?;
        if scheme.eq_ignore_ascii_case("bearer") { self.knows(key.trim()) } else { None }
    }

    /// Compares with every key, always with all of them and each in constant time.
    fn knows(&self, key: &str) -> Option<Pass> {
        let sent = digest(key.as_bytes());
        let known = self.keys.iter().map(|known| (known.pass, sent.ct_eq(&known.digest)));
        known.fold(None, |found, (pass, is_it)| if bool::from(is_it) { Some(pass) } else { found })
    }
}

/// Makes a key: 256 bits of chance.
///
/// # Errors
/// The kernel gives none.
pub fn new_key() -> io::Result<String> {
    let mut bytes = [0; KEY_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold("sbx_".to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

/// The key that a browser sends with a WebSocket, for which it can set no header: one of the offered
/// protocols is `bearer.` and the key in base 64 (RFC 4648, 5, without padding).
fn offered_key(headers: &HeaderMap) -> Option<String> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offers = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let encoded = offers.find_map(|offer| offer.trim().strip_prefix(KEY_PROTOCOL))?;
    let key = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(key).ok()
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEAK: Pass = Pass { min_isolation: Isolation::Container };
    const STRONG: Pass = Pass { min_isolation: Isolation::Gvisor };

    fn auth(keys: &[(&str, Pass)]) -> Auth {
        Auth::new(keys, None)
    }

    fn knows(auth: &Auth, key: &str) -> Option<Pass> {
        auth.0.read().unwrap().knows(key)
    }

    #[test]
    fn keys_are_exchanged_for_whoever_holds_a_clone() {
        let auth = auth(&[("0123456789abcdef", WEAK), ("stays0123456789a", WEAK)]);
        let held = auth.clone();
        auth.replace(&[("stays0123456789a", STRONG), ("fedcba9876543210", WEAK)], None);
        let known = ["0123456789abcdef", "stays0123456789a", "fedcba9876543210"].map(|key| knows(&held, key));
        assert_eq!(known, [None, Some(STRONG), Some(WEAK)]);
        auth.replace(&[], Some(STRONG));
        assert_eq!(held.admits("/sandboxes", &HeaderMap::new()), Some(STRONG));
    }

    #[test]
    fn a_key_brings_what_it_may_do() {
        let auth = auth(&[("0123456789abcdef", WEAK), ("fedcba9876543210", STRONG)]);
        assert_eq!(knows(&auth, "0123456789abcdef"), Some(WEAK));
        assert_eq!(knows(&auth, "fedcba9876543210"), Some(STRONG));
        assert_eq!(knows(&auth, ""), None);
        let open = Auth::new(&[("0123456789abcdef", WEAK)], Some(STRONG));
        assert_eq!(open.admits("/sandboxes", &HeaderMap::new()), Some(STRONG));
        let mut headers = HeaderMap::new();
        assert!(open.admits_anybody("/sandboxes", &headers) && !open.admits_anybody("/healthz", &headers));
        headers.insert(header::AUTHORIZATION, "Bearer wrong".parse().unwrap());
        assert!(open.admits_anybody("/sandboxes", &headers));
        headers.insert(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap());
        assert!(!open.admits_anybody("/sandboxes", &headers) && !auth.admits_anybody("/sandboxes", &headers));
    }

    #[test]
    fn only_a_known_key_passes() {
        let auth = auth(&[("0123456789abcdef", WEAK), ("fedcba9876543210", WEAK)]);
        let ask = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            auth.admits("/sandboxes", &headers).is_some()
        };
        assert!(ask(Some("Bearer 0123456789abcdef")) && ask(Some("bearer fedcba9876543210")));
        for bad in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer x"),
            Some("Basic 0123456789abcdef"),
            Some("0123456789abcdef"),
        ] {
            assert!(!ask(bad), "{bad:?}");
        }
        assert!(auth.admits("/healthz", &HeaderMap::new()).is_some());
    }

    #[test]
    fn a_websocket_may_bring_its_key_among_the_protocols() {
        let auth = auth(&[("0123456789abcdef", WEAK)]);
        let ask = |upgrade: bool, protocol: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
            if upgrade {
                headers.insert(header::UPGRADE, "websocket".parse().unwrap());
            }
            auth.admits("/v1/sandboxes/x/terminal", &headers).is_some()
        };
        let right = "sandboxd.v1, bearer.MDEyMzQ1Njc4OWFiY2RlZg";
        assert!(ask(true, right) && !ask(false, right));
        for bad in
            ["sandboxd.v1", "bearer.", "bearer.MDEy", "bearer.0123456789abcdef", "MDEyMzQ1Njc4OWFiY2RlZg"]
        {
            assert!(!ask(true, bad), "{bad}");
        }
    }

    #[test]
    fn two_credentials_are_refused() {
        let auth = auth(&[("0123456789abcdef", WEAK)]);
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap());
        headers.append(header::AUTHORIZATION, "Bearer other".parse().unwrap());
        assert!(auth.admits("/sandboxes", &headers).is_none());
    }

    #[test]
    fn keys_differ() {
        let (a, b) = (new_key().unwrap(), new_key().unwrap());
        assert!(a != b && a.len() == 4 + 2 * KEY_BYTES && a.starts_with("sbx_"));
    }
}
