//! Rust source as words and marks, without comments, texts and characters.

/// A word, or one character that is none; `::` is one mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Word(String),
    Mark(char),
    Path,
}

impl Token {
    pub(crate) fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Mark(_) | Self::Path => None,
        }
    }

    pub(crate) fn is(&self, mark: char) -> bool {
        *self == Self::Mark(mark)
    }
}

/// Cuts a source into tokens.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut index) = (Vec::new(), 0);
    while index < chars.len() {
        index = match (at(index), at(index + 1)) {
            ('/', '/') => skip_line(&chars, index),
            ('/', '*') => skip_block(&chars, index),
            ('"', _) => skip_text(&chars, index + 1),
            ('r' | 'b', '"' | '#' | 'r') if raw_hashes(&chars, index).is_some() => skip_raw(&chars, index),
            ('b' | 'c', '"') => skip_text(&chars, index + 2),
            ('\'', _) => skip_quote(&chars, index),
            (':', ':') => {
                found.push(Token::Path);
                index + 2
            }
            (c, _) if is_part(c) => {
                let end = (index..chars.len()).find(|i| !is_part(at(*i))).unwrap_or(chars.len());
                found.push(Token::Word(chars[index..end].iter().collect()));
                end
            }
            (c, _) => {
                if !c.is_whitespace() {
                    found.push(Token::Mark(c));
                }
                index + 1
            }
        };
    }
    found
}

fn skip_line(chars: &[char], index: usize) -> usize {
    chars[index..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| index + length)
}

fn skip_block(chars: &[char], index: usize) -> usize {
    let end = chars[index..].windows(2).position(|pair| pair == ['*', '/']);
    end.map_or(chars.len(), |length| index + length + 2)
}

fn skip_text(chars: &[char], mut index: usize) -> usize {
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// How many `#` a raw text has: `r"`, `r#"`, `br"` and so on; `None` for a word such as `run` or `r#type`.
fn raw_hashes(chars: &[char], index: usize) -> Option<usize> {
    let begin = index + usize::from(chars[index] == 'b' && chars.get(index + 1) == Some(&'r')) + 1;
    if chars[begin - 1] != 'r' {
        return None;
    }
    let hashes = chars[begin..].iter().take_while(|c| **c == '#').count();
    (chars.get(begin + hashes) == Some(&'"')).then_some(hashes)
}

fn skip_raw(chars: &[char], index: usize) -> usize {
    let hashes = raw_hashes(chars, index).unwrap_or_default();
    let begin =
        chars[index..].iter().position(|c| *c == '"').map_or(chars.len(), |length| index + length + 1);
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = chars[begin..].windows(end.len()).position(|window| window == end);
    length.map_or(chars.len(), |length| begin + length + end.len())
}

/// A character, or the mark of a lifetime.
fn skip_quote(chars: &[char], index: usize) -> usize {
    match (chars.get(index + 1), chars.get(index + 2)) {
        (Some('\\'), _) => {
            let end = chars[(index + 3).min(chars.len())..].iter().position(|c| *c == '\'');
            end.map_or(chars.len(), |length| index + 3 + length + 1)
        }
        (_, Some('\'')) => index + 3,
        _ => index + 1,
    }
}
