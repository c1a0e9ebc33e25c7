//! The `Host` of a request, and which sandbox it leads to.
#![no_main]

use http::{HeaderMap, HeaderValue, Uri, header};
use libfuzzer_sys::fuzz_target;
use edge::proxy::{Host, Route};

fuzz_target!(|data: (&[u8], Option<&[u8]>)| {
    let (first, second) = data;
    let mut headers = HeaderMap::new();
    for value in [Some(first), second].into_iter().flatten() {
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        headers.append(header::HOST, value);
    }
    let Some(host) = Host::of(&Uri::from_static("/"), &headers) else { return };
    assert!(second.is_none(), "two hosts are none");
    let route = host.route("localhost");
    // The same name in other letters leads to the same place.
    let upper = HeaderValue::from_str(&host.authority().to_ascii_uppercase()).expect("letters stay letters");
    let again = HeaderMap::from_iter([(header::HOST, upper)]);
    let again = Host::of(&Uri::from_static("/"), &again).expect("as valid as before");
    assert_eq!(again.route("localhost"), route);
    if let Route::Preview { port, .. } = route {
        assert_ne!(port, 0);
    }
});
