//! Who may use the API.

use std::io::{self, Read as _};

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// The bytes of chance in a key.
const KEY_BYTES: usize = 32;
/// Begins the WebSocket protocol that is a key.
const KEY_PROTOCOL: &str = "bearer.";
/// What can be asked without a key.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/openapi.json"];

/// The keys, as digests: what is compared says nothing about what was sent.
#[derive(Debug)]
pub struct Auth {
    keys: Vec<(String, [u8; 32])>,
    disabled: bool,
}

impl Auth {
    /// Takes named keys.
    pub fn new<'a>(keys: impl Iterator<Item = (&'a str, &'a str)>, disabled: bool) -> Self {
        let keys = keys.map(|(name, key)| (name.to_owned(), digest(key.as_bytes()))).collect();
        Self { keys, disabled }
    }

    /// Says whether a request may pass.
    pub(super) fn admits(&self, path: &str, headers: &HeaderMap) -> bool {
        if self.disabled || OPEN.contains(&path) {
            return true;
        }
        if !headers.contains_key(header::AUTHORIZATION) && headers.contains_key(header::UPGRADE) {
            return offered_key(headers).is_some_and(|key| self.knows(&key));
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, key)) = value.to_str().ok().and_then(|v| v.split_once(' ')) else { return false };
        scheme.eq_ignore_ascii_case("bearer") && self.knows(key.trim())
    }

    /// Compares with every key, always with all of them and in constant time.
    fn knows(&self, key: &str) -> bool {
        let sent = digest(key.as_bytes());
        let found = self.keys.iter().fold(Choice::from(0), |found, (_, known)| found | sent.ct_eq(known));
        found.into()
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

    #[test]
    fn only_a_known_key_passes() {
        let auth = Auth::new([("a", "0123456789abcdef"), ("b", "fedcba9876543210")].into_iter(), false);
        let ask = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            }
            auth.admits("/sandboxes", &headers)
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
        assert!(auth.admits("/healthz", &HeaderMap::new()));
    }

    #[test]
    fn a_websocket_may_bring_its_key_among_the_protocols() {
        let auth = Auth::new([("a", "0123456789abcdef")].into_iter(), false);
        let ask = |upgrade: bool, protocol: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
            if upgrade {
                headers.insert(header::UPGRADE, "websocket".parse().unwrap());
            }
            auth.admits("/v1/sandboxes/x/terminal", &headers)
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
        let auth = Auth::new([("a", "0123456789abcdef")].into_iter(), false);
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap());
        headers.append(header::AUTHORIZATION, "Bearer other".parse().unwrap());
        assert!(!auth.admits("/sandboxes", &headers));
    }

    #[test]
    fn keys_differ() {
        let (a, b) = (new_key().unwrap(), new_key().unwrap());
        assert!(a != b && a.len() == 4 + 2 * KEY_BYTES && a.starts_with("sbx_"));
    }
}
