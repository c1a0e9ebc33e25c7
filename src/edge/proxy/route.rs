//! Which sandbox a host name means.
//!
//! hyper does not police `Host`: none, two, a list, user info and paths all come through. Requests are
//! routed by it, so exactly one valid authority is accepted, and each preview has exactly two names:
//! `s-<id>-<port>.preview.<domain>` and `<port>-<id>.<domain>`.

use http::{HeaderMap, Uri, header};

use model::SandboxId;

/// The most bytes of a host name — RFC 1035, 2.3.4.
const NAME_BYTES_MAX: usize = 253;

/// A host name in lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    /// As the client wrote it, for the app.
    authority: String,
}

/// What a host name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Preview {
        id: SandboxId,
        port: u16,
    },
    /// It looks like a preview's name, and is none.
    NoPreview,
    /// It is not a preview's.
    Other,
}

impl Host {
    /// Finds the one host of a request; `None` when there is none, several, or one that is malformed.
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::HOST).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let text = value.to_str().ok()?;
        // A request in absolute form names its host twice (RFC 9112, 3.2.2): both must agree.
        if uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(text)) {
            return None;
        }
        Self::parse(text)
    }

    fn parse(authority: &str) -> Option<Self> {
        let (name, port) = match authority.strip_prefix('[') {
            // An IPv6 address.
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (authority.get(..address.len() + 2)?, after.strip_prefix(':'))
            }
            None => match authority.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (authority, None),
            },
        };
        if port.is_some_and(|p| {
            p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit()) || p.parse::<u16>().is_err()
        }) {
            return None;
        }
        // One dot at the end makes a name absolute, and means the same.
        let bare = name.strip_suffix('.').unwrap_or(name);
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':');
        if bare.is_empty()
            || bare.len() > NAME_BYTES_MAX
            || !bare.bytes().all(valid)
            || bare.split('.').any(str::is_empty)
        {
            return None;
        }
        Some(Self { name: bare.to_ascii_lowercase(), authority: authority.to_owned() })
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Finds out what the name means beneath a domain (in lower case).
    pub fn route(&self, domain: &str) -> Route {
        let Some(rest) = self.name.strip_suffix(domain).and_then(|r| r.strip_suffix('.')) else {
            return Route::Other;
        };
        let found = match rest.strip_suffix(".preview") {
            Some(label) => label
                .strip_prefix("s-")
                .and_then(|l| l.rsplit_once('-'))
                .and_then(|(id, port)| preview(id, port)),
            None => rest.split_once('-').and_then(|(port, id)| preview(id, port)),
        };
        match found {
            Some(route) => route,
            None if rest == "preview" || rest.ends_with(".preview") => Route::NoPreview,
            None => Route::Other,
        }
    }
}

fn preview(id: &str, port: &str) -> Option<Route> {
    // Without leading zeros, signs or blanks: one name for one port.
    let digits =
        (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
    let port = port.parse().ok().filter(|_| digits)?;
    Some(Route::Preview { id: id.parse().ok()?, port })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "01arz3ndektsv4rrffq69g5fav";

    fn route(host: &str) -> Option<Route> {
        Host::parse(host).map(|h| h.route("localhost"))
    }

    #[test]
    fn both_forms_lead_to_the_sandbox() {
        let expected = Some(Route::Preview { id: ID.parse().unwrap(), port: 3000 });
        for host in [
            format!("s-{ID}-3000.preview.localhost"),
            format!("S-{}-3000.Preview.LOCALHOST", ID.to_uppercase()),
            format!("s-{ID}-3000.preview.localhost:8080"),
            format!("s-{ID}-3000.preview.localhost."),
            format!("3000-{ID}.localhost"),
        ] {
            assert_eq!(route(&host), expected, "{host}");
        }
    }

    #[test]
    fn everything_else_is_something_else() {
        for (host, expected) in [
            ("localhost".to_owned(), Some(Route::Other)),
            ("127.0.0.1:9090".to_owned(), Some(Route::Other)),
            ("[::1]:9090".to_owned(), Some(Route::Other)),
            (format!("s-{ID}-3000.preview.example.org"), Some(Route::Other)),
            (format!("s-{ID}-03000.preview.localhost"), Some(Route::NoPreview)),
            (format!("s-{ID}-70000.preview.localhost"), Some(Route::NoPreview)),
            (format!("s-{ID}-.preview.localhost"), Some(Route::NoPreview)),
            (format!("x.s-{ID}-3000.preview.localhost"), Some(Route::NoPreview)),
            (format!("s-{ID}-3000.preview.localhost.evil.org"), Some(Route::Other)),
            (format!("3000-{ID}.preview.localhost"), Some(Route::NoPreview)),
            ("preview.localhost".to_owned(), Some(Route::NoPreview)),
            (String::new(), None),
            ("a,b".to_owned(), None),
            ("user@localhost".to_owned(), None),
            ("localhost/path".to_owned(), None),
            ("localhost:".to_owned(), None),
            ("localhost:99999".to_owned(), None),
            ("a..b".to_owned(), None),
            ("local host".to_owned(), None),
            ("[::1".to_owned(), None),
        ] {
            assert_eq!(route(&host), expected, "{host}");
        }
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        let of = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            Host::of(&uri.parse().unwrap(), &headers).map(|h| h.name)
        };
        assert_eq!(of("/", &["a.b"]).as_deref(), Some("a.b"));
        assert_eq!(of("http://a.b/", &["A.B"]).as_deref(), Some("a.b"));
        assert_eq!(of("/", &[]), None);
        assert_eq!(of("/", &["a.b", "a.b"]), None);
        assert_eq!(of("http://c.d/", &["a.b"]), None);
    }

    proptest! {
        #[test]
        fn no_text_is_two_sandboxes(text in "[a-zA-Z0-9.:\\-]{0,60}") {
            if let Some(Route::Preview { id, .. }) = route(&text) {
                prop_assert!(text.to_ascii_lowercase().contains(&id.lower()));
            }
        }
    }
}
