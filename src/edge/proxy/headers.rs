//! What is taken out of and put into heads on their way.

use std::net::SocketAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers of one connection, not of the message — RFC 9110, 7.6.1.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::UPGRADE,
];
/// What a client could say of itself to be taken for somebody else.
const CLIENT_CLAIMS: [HeaderName; 6] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
];
/// What an app may not say, since it would hold for more than its own preview: for the other previews and the API
/// of the same site, for the browser beyond this answer, or for a server in front of us.
const NOT_FROM_APPS: [HeaderName; 11] = [
    header::STRICT_TRANSPORT_SECURITY,
    header::ALT_SVC,
    // Its "cookies" are those of the whole registrable domain.
    HeaderName::from_static("clear-site-data"),
    // Outlast the sandbox and can name all names beneath.
    HeaderName::from_static("public-key-pins"),
    HeaderName::from_static("public-key-pins-report-only"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    // nginx, Apache, lighttpd and Perlbal in front of us would answer with a file or location of their own.
    HeaderName::from_static("x-accel-redirect"),
    HeaderName::from_static("x-sendfile"),
    HeaderName::from_static("x-lighttpd-send-file"),
    HeaderName::from_static("x-reproxy-url"),
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Says which protocol a request or answer wants to change to, if any.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = connection_tokens(headers).iter().any(|t| t == "upgrade");
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

/// Prepares a request's head for the app.
pub(super) fn to_app(
    headers: &mut HeaderMap,
    upgrade: Option<&HeaderValue>,
    client: SocketAddr,
    host: &str,
    scheme: &'static str,
) {
    strip_hop_by_hop(headers);
    for name in CLIENT_CLAIMS {
        headers.remove(name);
    }
    if let Ok(value) = HeaderValue::from_str(&client.ip().to_canonical().to_string()) {
        headers.insert(FORWARDED_FOR, value);
    }
    if let Ok(value) = HeaderValue::from_str(host) {
        headers.insert(FORWARDED_HOST, value.clone());
        headers.insert(header::HOST, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
    restore_upgrade(headers, upgrade);
}

/// Shows the app the name by which it knows itself; the preview's own stays in `X-Forwarded-Host`.
pub(super) fn as_localhost(headers: &mut HeaderMap, port: u16) {
    if let Ok(value) = HeaderValue::from_str(&format!("localhost:{port}")) {
        headers.insert(header::HOST, value);
    }
}

/// Prepares an answer's head for the client.
pub(super) fn to_client(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    strip_hop_by_hop(headers);
    for name in NOT_FROM_APPS {
        headers.remove(name);
    }
    let cookies: Vec<_> = headers.get_all(header::SET_COOKIE).iter().filter_map(without_domain).collect();
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
    restore_upgrade(headers, upgrade);
}

/// Checks how the body of an app's answer is framed (RFC 9112, 6.3), and takes out what is said anew to the client.
///
/// # Errors
/// Two servers could read it in two ways; the text says why.
pub(super) fn frame(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if headers.contains_key(header::CONTENT_LENGTH) {
            return Err("The app in the sandbox answered with a Content-Length and a Transfer-Encoding.");
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("The app in the sandbox answered with a Transfer-Encoding other than chunked.");
        }
    }
    headers.remove(header::TRANSFER_ENCODING);
    // Several that differ do not come so far; of equal ones the client gets one.
    if let Some(length) = headers.get(header::CONTENT_LENGTH).cloned() {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    Ok(())
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for token in connection_tokens(headers) {
        // What frames the body is not the client's to remove.
        if !matches!(token.as_str(), "host" | "content-length" | "transfer-encoding") {
            headers.remove(token.as_str());
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn restore_upgrade(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
}

fn connection_tokens(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .map(|t| t.trim().to_ascii_lowercase())
        .filter(|t| !t.is_empty())
        .collect()
}

/// Takes `Domain` out of a cookie, so that it stays with the one preview that set it.
fn without_domain(cookie: &HeaderValue) -> Option<HeaderValue> {
    let Ok(text) = cookie.to_str() else { return None };
    let keeps = |part: &&str| !part.trim_start().get(..6).is_some_and(|p| p.eq_ignore_ascii_case("domain"));
    let parts: Vec<&str> =
        text.split(';').enumerate().filter(|(i, p)| *i == 0 || keeps(p)).map(|(_, p)| p).collect();
    HeaderValue::from_str(&parts.join(";")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in entries {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn claims_are_replaced_and_hop_by_hop_headers_stay_behind() {
        let mut headers = map(&[
            ("host", "x"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("te", "trailers"),
            ("cookie", "a=b"),
        ]);
        to_app(&mut headers, None, "10.0.0.9:1".parse().unwrap(), "h.localhost", "http");
        let left: std::collections::BTreeSet<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(
            left.into_iter().collect::<Vec<_>>(),
            ["cookie", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]
        );
        assert_eq!(headers["x-forwarded-for"], "10.0.0.9");
        assert_eq!(headers["host"], "h.localhost");
    }

    #[test]
    fn a_connection_header_cannot_take_away_what_frames_the_body() {
        let mut headers =
            map(&[("connection", "content-length, host"), ("content-length", "5"), ("host", "x")]);
        strip_hop_by_hop(&mut headers);
        assert!(headers.contains_key("content-length") && headers.contains_key("host"));
    }

    #[test]
    fn cookies_stay_with_their_preview() {
        let mut headers = map(&[
            ("set-cookie", "a=domain=x; Path=/; Domain=.preview.localhost; Secure"),
            ("set-cookie", "b=1; domain=localhost"),
            ("strict-transport-security", "max-age=1"),
            ("clear-site-data", "\"*\""),
            ("x-accel-redirect", "/etc/passwd"),
            ("nel", "{}"),
        ]);
        to_client(&mut headers, None);
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().map(|c| c.to_str().unwrap()).collect();
        assert_eq!(cookies, ["a=domain=x; Path=/; Secure", "b=1"]);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["set-cookie"]);
    }

    #[test]
    fn an_answer_is_framed_in_one_way() {
        let of = |entries: &[(&'static str, &'static str)]| {
            let mut headers = map(entries);
            frame(&mut headers).map(|()| headers.get_all("content-length").iter().count())
        };
        assert_eq!(of(&[("transfer-encoding", "Chunked")]), Ok(0));
        assert_eq!(of(&[("content-length", "5"), ("content-length", "5")]), Ok(1));
        for bad in [
            &[("transfer-encoding", "chunked"), ("content-length", "5")][..],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "identity")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade_of(&map(&[("upgrade", "websocket")])).is_none());
        assert!(
            upgrade_of(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).is_some()
        );
    }
}
