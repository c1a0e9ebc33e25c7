//! Texts from elsewhere, made fit for a terminal.

/// Replaces control characters, so that a name or message from elsewhere cannot move the cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
