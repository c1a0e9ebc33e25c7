//! Where a server is: `http://host[:port][/prefix]`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

/// A server's address, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
    prefix: String,
}

/// Why a text is not a server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("{0:?} is not an address of the form http://host:port")]
    Form(String),
    #[error("{0:?} is not http: this client speaks plain HTTP; end TLS in a tunnel or proxy in front of it")]
    Scheme(String),
    #[error("an address carries no user name, password, query or fragment; the key has its own setting")]
    Extra,
}

impl Endpoint {
    /// Returns the host without brackets, as it is resolved.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Returns the port; 80 when the address has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `host:port`, the value of the `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Returns the path for the request line: the address's own prefix, then `path`.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Whether requests stay on this machine, as far as the text tells (`localhost` or a loopback address).
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Reads `http://127.0.0.1:9090`, and `127.0.0.1:9090` as the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || EndpointError::Form(text.chars().take(100).collect());
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_e| form())?;
        if uri.scheme_str() != Some("http") {
            return Err(EndpointError::Scheme(text.chars().take(100).collect()));
        }
        let authority = uri.authority().ok_or_else(form)?;
        if authority.as_str().contains('@') || uri.query().is_some() || full.contains('#') {
            return Err(EndpointError::Extra);
        }
        let host = authority.host();
        // `host:` and `host:99999` leave bytes after the host that are no port.
        let has_port = authority.as_str().len() > host.len();
        let port = match authority.port_u16() {
            Some(0) => return Err(form()),
            None if has_port => return Err(form()),
            port => port.unwrap_or(80),
        };
        if host.is_empty() {
            return Err(form());
        }
        Ok(Self { host: host.to_owned(), port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        let check = |text: &str, shown: &str, host: &str, loopback: bool| {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(
                (endpoint.to_string().as_str(), endpoint.host(), endpoint.is_loopback()),
                (shown, host, loopback)
            );
        };
        check("http://127.0.0.1:9090", "http://127.0.0.1:9090", "127.0.0.1", true);
        check("127.0.0.1:9090", "http://127.0.0.1:9090", "127.0.0.1", true);
        check("http://LocalHost:1/", "http://LocalHost:1", "LocalHost", true);
        check("http://[::1]:9090", "http://[::1]:9090", "::1", true);
        check("http://box.example/sandboxes/", "http://box.example:80/sandboxes", "box.example", false);
        check(
            "http://127.0.0.1.example.org:80",
            "http://127.0.0.1.example.org:80",
            "127.0.0.1.example.org",
            false,
        );
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "http://", "http://:9090", "http://a:", "http://a:0", "http://a:99999", "http://a b"]
        {
            assert!(matches!(text.parse::<Endpoint>(), Err(EndpointError::Form(_))), "{text:?}");
        }
        assert!(matches!("https://a".parse::<Endpoint>(), Err(EndpointError::Scheme(_))));
        for text in ["http://key@a", "http://a?x=1", "http://a/#x"] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::Extra), "{text:?}");
        }
    }
}
