//! What people see when their app does not answer (yet).

/// The page that is shown while a sandbox wakes; it asks again by itself.
pub(super) const WARMING: &str = concat!(
    "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=1><meta name=viewport content=\"width=device-width\">",
    "<title>Waking up\u{2026}</title><style>body{font:16px system-ui,sans-serif;display:grid;place-items:center;min-height:90vh;color:#333}",
    "i{display:inline-block;width:.6em;height:.6em;border-radius:50%;background:#39c;animation:p 1s infinite alternate}@keyframes p{to{opacity:.2}}</style>",
    "<main><i></i> The app is waking up. This page reloads by itself.</main></html>\n"
);

/// A page that says what is wrong; `text` is one of ours, without anything of the client's in it.
pub(super) fn problem(title: &str, text: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>body{{font:16px system-ui,sans-serif;max-width:40em;margin:15vh auto;padding:0 1em;color:#333}}</style>\
         <h1>{title}</h1><p>{text}</p></html>\n"
    )
}
