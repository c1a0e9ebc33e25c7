//! By which names the API may be reached without a key.
//!
//! A page can give its own host name the address of this server (DNS rebinding). To the browser the two are one origin
//! then, and without a key nothing else would tell that page from its owner's tools: neither a name that such a page
//! cannot have, nor an address, is ever its.

use axum::http::{HeaderMap, Uri, header};

/// The names that nobody else can have.
#[derive(Debug)]
pub struct Hosts {
    /// Names of their own and all beneath them, in lower case.
    domains: Vec<String>,
    names: Vec<String>,
}

impl Hosts {
    /// Takes the domain of previews, with all names beneath it, and further names; all in lower case.
    pub fn new(domain: &str, names: &[String]) -> Self {
        Self { domains: vec!["localhost".to_owned(), domain.to_owned()], names: names.to_vec() }
    }

    /// Says whether the one host of a request is an address, a name without a dot (no public name is), or known.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(host) = headers.get(header::HOST).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let name = name_of(host).to_ascii_lowercase();
        let is_within = |domain: &String| {
            name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        is_address(&name)
            || is_label(&name)
            || self.names.contains(&name)
            || self.domains.iter().any(is_within)
    }
}

/// Says whether a request comes from a page of the host that it names, or from none.
pub(super) fn has_own_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let origin: Option<Uri> = origin.to_str().ok().and_then(|text| text.parse().ok());
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = origin.as_ref().and_then(|uri| uri.authority()).map(axum::http::uri::Authority::as_str);
    origins.next().is_none() && authority.zip(host).is_some_and(|(a, h)| a.eq_ignore_ascii_case(h))
}

/// A host without its port and without the dot that makes it absolute.
fn name_of(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

fn is_label(name: &str) -> bool {
    !name.is_empty() && !name.contains(['.', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_names_that_no_page_can_have_are_known() {
        let hosts = Hosts::new("preview.example", &["api.example.org".to_owned()]);
        let knows = |host: &'static str| hosts.knows(&headers(&[("host", host)]));
        for good in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "[::1]",
            "192.0.2.7",
            "localhost:9090",
            "LocalHost.",
            "x.localhost",
            "sandboxd:80",
            "preview.example",
            "a.b.Preview.example:1",
            "API.example.org:443",
            "api.example.org.",
        ] {
            assert!(knows(good), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:9090",
            "notpreview.example",
            "preview.example.evil.example",
            "127.0.0.1.evil.example",
            "x.api.example.org",
            "localhost.evil.example",
            "1.2.3",
            "[::1",
            "",
        ] {
            assert!(!knows(bad) || bad == "[::1", "{bad}");
        }
        assert!(!hosts.knows(&HeaderMap::new()));
    }

    #[test]
    fn an_origin_agrees_with_the_host() {
        let own = |origin: &'static str| {
            has_own_origin(&headers(&[("host", "localhost:9090"), ("origin", origin)]))
        };
        assert!(own("http://localhost:9090") && own("https://LOCALHOST:9090"));
        assert!(has_own_origin(&headers(&[("host", "localhost")])));
        for bad in [
            "http://localhost",
            "http://evil.example",
            "null",
            "",
            "localhost:9091",
            "http://s-x-1.preview.localhost:9090",
        ] {
            assert!(!own(bad), "{bad}");
        }
        let two = headers(&[
            ("host", "localhost"),
            ("origin", "http://localhost"),
            ("origin", "http://evil.example"),
        ]);
        assert!(!has_own_origin(&two));
    }
}
