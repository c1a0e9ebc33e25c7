//! Fields of a body that the server does not know.

/// How many ignored fields an answer names; a body has room for a hundred thousand.
pub(super) const WARNINGS_MAX: usize = 16;
/// The most bytes of an ignored field's name in an answer.
pub(super) const NAME_BYTES_MAX: usize = 128;

/// The unknown fields of a body.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// Fields of the object itself that have another name in it.
    other_names: &'static [(&'static str, &'static str)],
    /// The first of those that the body has.
    other: Option<&'static (&'static str, &'static str)>,
    /// The first [`WARNINGS_MAX`] unknown fields.
    names: Vec<String>,
    count: usize,
}

impl Ignored {
    /// With fields that are looked for because they have another name here.
    pub(super) fn looking_for(other_names: &'static [(&'static str, &'static str)]) -> Self {
        Self { other_names, ..Self::default() }
    }

    /// The first field of the body that has another name here, with that name.
    pub(super) fn other(&self) -> Option<&'static (&'static str, &'static str)> {
        self.other
    }

    pub(super) fn note(&mut self, path: &serde_ignored::Path<'_>) {
        self.count += 1;
        let is_full = self.names.len() >= WARNINGS_MAX;
        if is_full && self.other_names.is_empty() {
            return;
        }
        let name = path_of(path);
        self.other = self.other.or_else(|| self.other_names.iter().find(|(other, _)| *other == name));
        if !is_full {
            self.names.push(name);
        }
    }

    /// Begins anew: the body is read once more.
    pub(super) fn forget(&mut self) {
        *self = Self { other_names: self.other_names, ..Self::default() };
    }

    /// What an answer says of them.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.names.iter().map(|name| warning(name)).collect();
        let more = self.count.saturating_sub(warnings.len());
        if more > 0 {
            warnings.push(format!("{more} more unknown fields were ignored"));
        }
        warnings
    }
}

fn warning(name: &str) -> String {
    let end = name.floor_char_boundary(NAME_BYTES_MAX);
    let more = if end < name.len() { "…" } else { "" };
    format!("{}{more}: unknown field, ignored", name.get(..end).unwrap_or_default())
}

/// The place of a field as errors show it: names and indexes, without serde's marks for optional values.
fn path_of(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let mut parts = Vec::new();
    let mut rest = path;
    loop {
        rest = match rest {
            Path::Root => break,
            Path::Map { parent, key } => {
                parts.push(key.clone());
                parent
            }
            Path::Seq { parent, index } => {
                parts.push(index.to_string());
                parent
            }
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                parent
            }
        };
    }
    parts.reverse();
    parts.join(".")
}
