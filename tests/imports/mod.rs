//! Which file of a crate uses which other one: by `use`, by paths in the code, and through re-exports.
//!
//! A re-export is no use: a file that imports a name from a directory's `mod.rs` uses the file that defines the name.
//! Methods that a file adds to a type of another file are a hidden use where the type's file calls them: no import
//! shows that.

mod lex;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lex::{Token, tokens};

/// A module's path within its crate; the root's is empty.
pub(crate) type Place = Vec<String>;

/// Which file uses which, by their places.
pub(crate) type Uses = BTreeMap<Place, BTreeSet<Place>>;

/// Re-exports are followed through so many others.
const DEPTH_MAX: usize = 16;

/// What one file imports, defines and names.
#[derive(Debug, Default)]
struct Source {
    path: PathBuf,
    place: Place,
    defines: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in the code, and the inline modules in which they stand.
    named: Vec<(Vec<String>, Place)>,
    words: BTreeMap<String, usize>,
    /// Types that get inherent methods here, and the methods.
    methods: Vec<(String, BTreeSet<String>)>,
    calls: BTreeSet<String>,
}

/// One name that `use` binds.
#[derive(Debug, Clone)]
struct Import {
    path: Vec<String>,
    /// `*` for a glob.
    name: String,
    is_reexport: bool,
    /// The inline modules in which it stands.
    within: Place,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Module(Place),
    /// Something that this file defines.
    File(Place),
    Elsewhere,
}

/// The files of one crate.
#[derive(Debug)]
pub(crate) struct Crate {
    files: BTreeMap<Place, Source>,
}

impl Crate {
    /// Reads the sources of one crate; each with its path beneath the crate's directory.
    pub(crate) fn read(sources: &[(PathBuf, String)]) -> Self {
        let parsed = sources.iter().map(|(path, text)| parse(path, text));
        Self { files: parsed.map(|source| (source.place.clone(), source)).collect() }
    }

    /// Which file uses which other ones.
    pub(crate) fn uses(&self) -> Uses {
        let mut uses: Uses = self.files.keys().map(|place| (place.clone(), BTreeSet::new())).collect();
        for (place, source) in &self.files {
            let used = uses.entry(place.clone()).or_default();
            used.extend(source.imports.iter().filter_map(|import| self.used_by_import(source, import)));
            for (path, within) in &source.named {
                if let Target::File(target) = self.resolve(source, within, path, 0) {
                    used.insert(target);
                }
            }
            used.remove(place);
        }
        for (owner, user) in self.hidden() {
            uses.entry(owner).or_default().insert(user);
        }
        uses
    }

    /// The path of a file, for people.
    pub(crate) fn path(&self, place: &Place) -> String {
        self.files.get(place).map_or_else(|| place.join("::"), |source| source.path.display().to_string())
    }

    fn used_by_import(&self, source: &Source, import: &Import) -> Option<Place> {
        let target = self.resolve(source, &import.within, &import.path, 0);
        // What is used of a module is seen where the module is named, but for a glob.
        match target {
            Target::Module(place) if import.name == "*" && !import.is_reexport => Some(place),
            Target::Module(_) | Target::Elsewhere => None,
            Target::File(place) => {
                let is_named = source.words.get(&import.name).copied().unwrap_or_default() > 1;
                (!import.is_reexport || is_named).then_some(place)
            }
        }
    }

    /// Files that call methods which another file adds to their type.
    fn hidden(&self) -> Vec<(Place, Place)> {
        let mut found = Vec::new();
        for (place, source) in &self.files {
            for (name, methods) in &source.methods {
                let path = [name.clone()];
                let Target::File(owner) = self.resolve(source, &Place::new(), &path, 0) else { continue };
                let calls = self.files.get(&owner).map(|file| &file.calls);
                if owner != *place && calls.is_some_and(|calls| !calls.is_disjoint(methods)) {
                    found.push((owner, place.clone()));
                }
            }
        }
        found
    }

    /// Follows a path as it stands in a file, within inline modules of it.
    fn resolve(&self, source: &Source, within: &Place, path: &[String], depth: usize) -> Target {
        if depth > DEPTH_MAX {
            return Target::Elsewhere;
        }
        let (mut module, mut inline) = (source.place.clone(), within.clone());
        let Some((first, mut rest)) = path.split_first() else { return Target::Module(module) };
        match first.as_str() {
            "crate" => (module, inline) = (Place::new(), Place::new()),
            "self" => {}
            "super" => {
                up(&mut module, &mut inline);
                while rest.first().is_some_and(|segment| segment == "super") {
                    up(&mut module, &mut inline);
                    rest = &rest[1..];
                }
            }
            name => return self.resolve_name(source, within, (name, rest), depth),
        }
        if inline.is_empty() {
            return self.walk(module, rest, depth);
        }
        // In an inline module of this file.
        Target::File(module)
    }

    /// Follows a path that begins with a name in scope.
    fn resolve_name(
        &self,
        source: &Source,
        within: &Place,
        (name, rest): (&str, &[String]),
        depth: usize,
    ) -> Target {
        let mut imported = source.imports.iter().filter(|i| i.name == name && i.within == *within);
        if let Some(import) = imported.find(|import| import.path.first().is_some_and(|f| f != name)) {
            return match self.resolve(source, within, &import.path, depth + 1) {
                Target::Module(place) => self.walk(place, rest, depth + 1),
                other => other,
            };
        }
        let child = below(&source.place, name);
        if within.is_empty() && self.files.contains_key(&child) {
            return self.walk(child, rest, depth + 1);
        }
        if source.defines.contains(name) { Target::File(source.place.clone()) } else { Target::Elsewhere }
    }

    /// Follows the rest of a path from a module on.
    fn walk(&self, mut module: Place, path: &[String], depth: usize) -> Target {
        if depth > DEPTH_MAX {
            return Target::Elsewhere;
        }
        for (index, segment) in path.iter().enumerate() {
            let child = below(&module, segment);
            if self.files.contains_key(&child) {
                module = child;
                continue;
            }
            let Some(source) = self.files.get(&module) else { return Target::Elsewhere };
            if source.defines.contains(segment) {
                return Target::File(module);
            }
            let rest = &path[index + 1..];
            let is_named = |import: &&Import| import.name == *segment && import.within.is_empty();
            if let Some(import) = source.imports.iter().find(is_named) {
                return match self.resolve(source, &Place::new(), &import.path, depth + 1) {
                    Target::Module(place) => self.walk(place, rest, depth + 1),
                    other => other,
                };
            }
            return self.walk_globs(source, &path[index..], depth);
        }
        Target::Module(module)
    }

    /// Follows a path whose first name a file may get from a glob.
    fn walk_globs(&self, source: &Source, path: &[String], depth: usize) -> Target {
        for import in source.imports.iter().filter(|import| import.name == "*" && import.within.is_empty()) {
            if let Target::Module(place) = self.resolve(source, &Place::new(), &import.path, depth + 1) {
                let target = self.walk(place, path, depth + 1);
                if target != Target::Elsewhere {
                    return target;
                }
            }
        }
        Target::Elsewhere
    }
}

/// Groups of files that use one another in a circle.
pub(crate) fn circles(uses: &Uses) -> Vec<Vec<Place>> {
    let reached_from = |from: &Place| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(place) = open.pop() {
            let next = uses.get(&place).into_iter().flatten();
            open.extend(next.filter(|next| seen.insert((*next).clone())).cloned());
        }
        seen
    };
    let all: BTreeMap<_, _> = uses.keys().map(|place| (place.clone(), reached_from(place))).collect();
    let mut found: Vec<Vec<Place>> = Vec::new();
    for (place, reached) in &all {
        if !reached.contains(place) || found.iter().any(|circle| circle.contains(place)) {
            continue;
        }
        let circle = reached.iter().filter(|other| all.get(*other).is_some_and(|r| r.contains(place)));
        found.push(circle.cloned().collect());
    }
    found
}

fn up(module: &mut Place, inline: &mut Place) {
    if inline.pop().is_none() {
        module.pop();
    }
}

fn below(place: &Place, name: &str) -> Place {
    place.iter().cloned().chain([name.to_owned()]).collect()
}

fn place_of(path: &Path) -> Place {
    let mut parts: Place = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let last = parts.pop().unwrap_or_default();
    let name = last.trim_end_matches(".rs");
    if name != "mod" && !(parts.is_empty() && name == "lib") {
        parts.push(name.to_owned());
    }
    parts
}

/// How many tokens a bracketed group has, from its opening on.
fn group(tokens: &[Token], open: char, close: char) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        if token.is(open) {
            depth += 1;
        } else if token.is(close) {
            depth -= 1;
            if depth == 0 {
                return index + 1;
            }
        }
    }
    tokens.len()
}

fn parse(path: &Path, text: &str) -> Source {
    let mut source = Source { path: path.to_owned(), place: place_of(path), ..Source::default() };
    let tokens = tokens(text);
    for word in tokens.iter().filter_map(Token::word) {
        *source.words.entry(word.to_owned()).or_default() += 1;
    }
    read(&mut source, &tokens, &Place::new());
    source
}

/// Reads the tokens of a file, or of an inline module of it.
fn read(source: &mut Source, tokens: &[Token], within: &Place) {
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        let rest = &tokens[index..];
        let next = rest.get(1).and_then(Token::word);
        let length = match (token.word(), next) {
            (Some("mod"), Some(name)) if rest.get(2).is_some_and(|t| t.is('{')) => {
                let length = 2 + group(&rest[2..], '{', '}');
                read(source, &rest[3..length - 1], &below(within, name));
                length
            }
            (Some("use"), _) => {
                let end = rest.iter().position(|t| t.is(';')).unwrap_or(rest.len());
                read_use(source, &rest[1..end], &[], (is_public(&tokens[..index]), within));
                end
            }
            (
                Some("struct" | "enum" | "trait" | "union" | "type" | "const" | "static" | "fn"),
                Some(name),
            ) => {
                source.defines.insert(name.to_owned());
                2
            }
            (Some("impl"), _) => {
                read_impl(source, rest);
                1
            }
            (Some(_), _) if rest.get(1) == Some(&Token::Path) => read_path(source, rest, within),
            (Some(word), _) => {
                let is_called = rest.get(1).is_some_and(|t| t.is('('));
                if is_called && index > 0 && tokens[index - 1].is('.') {
                    source.calls.insert(word.to_owned());
                }
                1
            }
            (None, _) => 1,
        };
        index += length.max(1);
    }
}

/// Whether what stands before a `use` makes it a re-export.
fn is_public(before: &[Token]) -> bool {
    let Some(last) = before.last() else { return false };
    if last.is(')') {
        let open = before.iter().rposition(|t| t.is('(')).unwrap_or_default();
        return open > 0 && before[open - 1].word() == Some("pub");
    }
    last.word() == Some("pub")
}

/// Takes down a path that stands in the code; returns its length.
fn read_path(source: &mut Source, tokens: &[Token], within: &Place) -> usize {
    let (mut path, mut index) = (Vec::new(), 0);
    while let Some(word) = tokens.get(index).and_then(Token::word) {
        path.push(word.to_owned());
        index += 1;
        if tokens.get(index) != Some(&Token::Path) {
            break;
        }
        index += 1;
    }
    if path.len() == 2 && path[0] == "Self" {
        source.calls.insert(path[1].clone());
    }
    source.named.push((path, within.clone()));
    index
}

/// Takes down what one tree of a `use` binds.
fn read_use(source: &mut Source, tokens: &[Token], prefix: &[String], of: (bool, &Place)) {
    let (mut path, mut index) = (prefix.to_vec(), 0);
    let (is_reexport, within) = (of.0, of.1.clone());
    while let Some(token) = tokens.get(index) {
        if token.is('{') {
            let length = group(&tokens[index..], '{', '}');
            for tree in split(&tokens[index + 1..index + length - 1]) {
                read_use(source, tree, &path, of);
            }
            return;
        }
        if token.is('*') {
            source.imports.push(Import { path, name: "*".to_owned(), is_reexport, within });
            return;
        }
        match token.word() {
            Some("as") => break,
            Some(word) => path.push(word.to_owned()),
            None => {}
        }
        index += 1;
    }
    let alias = tokens.get(index + 1).and_then(Token::word).map(str::to_owned);
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let Some(name) = alias.or_else(|| path.last().cloned()) else { return };
    source.imports.push(Import { path, name, is_reexport, within });
}

/// The trees between the commas of a group.
fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut found, mut begin, mut depth) = (Vec::new(), 0, 0_usize);
    for (index, token) in tokens.iter().enumerate() {
        if token.is('{') {
            depth += 1;
        } else if token.is('}') {
            depth -= 1;
        } else if token.is(',') && depth == 0 {
            found.push(&tokens[begin..index]);
            begin = index + 1;
        }
    }
    found.push(&tokens[begin..]);
    found.retain(|tree| !tree.is_empty());
    found
}

/// Takes down the methods of an inherent `impl`.
fn read_impl(source: &mut Source, tokens: &[Token]) {
    let Some(open) = tokens.iter().position(|t| t.is('{')) else { return };
    let head = &tokens[..open];
    if head.iter().any(|t| t.word() == Some("for") || t.is(';') || t.is('=')) {
        return;
    }
    // `impl<T: Bound> Name<T>`: the name comes after the parameters.
    let begin = if head.get(1).is_some_and(|t| t.is('<')) { 1 + group(&head[1..], '<', '>') } else { 1 };
    let Some(name) = head.get(begin).and_then(Token::word) else { return };
    let body = &tokens[open..open + group(&tokens[open..], '{', '}')];
    let methods = body.windows(2).filter(|pair| pair[0].word() == Some("fn"));
    let methods = methods.filter_map(|pair| pair[1].word().map(str::to_owned)).collect();
    source.methods.push((name.to_owned(), methods));
}
