//! Reads typed values out of a TOML table, keeping their places, and reports everything that does not fit.
//!
//! Unlike a derived deserializer it does not stop at the first fault, so one run of the check tells all of them.

use super::diagnostic::{At, Listed, Place, Sink};
use std::ops::RangeInclusive;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// One table of the file. Ask for every key that it may have, then [`Section::finish`].
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    pub place: Place,
    known: Vec<&'static str>,
}

type Value<'a> = &'a Spanned<DeValue<'a>>;

impl<'a> Section<'a> {
    /// The top level of a file.
    pub fn root(table: &'a DeTable<'a>) -> Section<'a> {
        Section::new(table, Place::file())
    }

    fn new(table: &'a DeTable<'a>, place: Place) -> Section<'a> {
        Section {
            table,
            place,
            known: Vec::new(),
        }
    }

    fn value(&mut self, key: &'static str) -> Option<(Value<'a>, Place)> {
        self.known.push(key);
        let (_, value) = self.table.iter().find(|(k, _)| k.get_ref() == key)?;
        let place = Place {
            offset: Some(value.span().start),
            key: join(&self.place, key),
            index: None,
        };
        Some((value, place))
    }

    /// A string read by `parse`, whose error says what is expected.
    pub fn parsed<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let (value, place) = self.value(key)?;
        parse_string(sink, value, place, &parse)
    }

    /// Any string.
    pub fn string(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<At<String>> {
        self.parsed(sink, key, |text| Ok(text.to_owned()))
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<At<T>> {
        self.parsed(sink, key, |text| one_of(text, words))
    }

    pub fn boolean(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<At<bool>> {
        let (value, place) = self.value(key)?;
        let found = value.get_ref().as_bool();
        if found.is_none() {
            sink.error(&place, expected("true or false", value.get_ref()));
        }
        found.map(|value| At { value, place })
    }

    pub fn integer(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let (value, place) = self.value(key)?;
        let value = parse_integer(sink, value, &place, &range)?;
        Some(At { value, place })
    }

    /// An array of strings, each read by `parse`. Elements that do not fit are reported and left out.
    pub fn list<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Listed<T>> {
        let (value, place) = self.value(key)?;
        let Some(array) = value.get_ref().as_array() else {
            sink.error(&place, expected("an array of strings", value.get_ref()));
            return None;
        };
        Some(elements(sink, array, place, &parse))
    }

    /// A string or an array of strings.
    pub fn one_or_many<T>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Listed<T>> {
        let (value, place) = self.value(key)?;
        match value.get_ref() {
            DeValue::Array(array) => Some(elements(sink, array, place, &parse)),
            DeValue::String(_) => Some(Listed {
                items: parse_string(sink, value, place.clone(), &parse)
                    .into_iter()
                    .collect(),
                written: 1,
                place,
            }),
            other => {
                sink.error(&place, expected("a string or an array of strings", other));
                None
            }
        }
    }

    /// A word, or an array of integers.
    pub fn word_or_integers<T: Copy>(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
        word: (&str, T),
        range: RangeInclusive<u64>,
    ) -> Option<At<Result<T, Vec<At<u64>>>>> {
        let (value, place) = self.value(key)?;
        let (text, meaning) = word;
        let value = match value.get_ref() {
            DeValue::String(found) if found == text => Ok(meaning),
            DeValue::Array(array) => {
                let places = array.iter().enumerate();
                let read = |(index, item): (usize, Value<'a>)| {
                    let place = element(&place, index, item);
                    let value = parse_integer(sink, item, &place, &range)?;
                    Some(At { value, place })
                };
                Err(places.filter_map(read).collect())
            }
            other => {
                let wanted = format!("\"{text}\" or an array of integers");
                sink.error(&place, expected(&wanted, other));
                return None;
            }
        };
        Some(At { value, place })
    }

    /// The entries of an inline table of strings, in the order of the file.
    pub fn string_map(
        &mut self,
        sink: &mut Sink<'_>,
        key: &'static str,
    ) -> Vec<(At<String>, At<String>)> {
        let Some((value, place)) = self.value(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            sink.error(&place, expected("a table of strings", value.get_ref()));
            return Vec::new();
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let read = |(name, value): (&Spanned<_>, Value<'a>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let place = Place {
                offset: Some(value.span().start),
                key: Arc::from(format!("{place}.{name}")),
                index: None,
            };
            let at_name = At {
                value: name.to_string(),
                place: place.clone(),
            };
            let at_value = parse_string(sink, value, place, &|text| Ok(text.to_owned()))?;
            Some((at_name, at_value))
        };
        entries.into_iter().filter_map(read).collect()
    }

    /// A table.
    pub fn section(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Option<Section<'a>> {
        let (value, place) = self.value(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(table, place)),
            None => {
                sink.error(&place, expected("a table", value.get_ref()));
                None
            }
        }
    }

    /// An array of tables. Their places carry their `name`, or `named_by`, where they have one.
    pub fn sections(&mut self, sink: &mut Sink<'_>, key: &'static str) -> Vec<Section<'a>> {
        let Some((value, place)) = self.value(key) else {
            return Vec::new();
        };
        let wanted = format!("[[{key}]], an array of tables");
        let Some(array) = value.get_ref().as_array() else {
            sink.error(&place, expected(&wanted, value.get_ref()));
            return Vec::new();
        };
        let read = |(index, item): (usize, Value<'a>)| {
            let place = element(&place, index, item);
            let Some(table) = item.get_ref().as_table() else {
                sink.error(&place, expected(&wanted, item.get_ref()));
                return None;
            };
            let name = table.iter().find(|(k, _)| k.get_ref() == "name");
            let name = name.and_then(|(_, v)| v.get_ref().as_str());
            let place = match name.filter(|name| is_plain(name)) {
                Some(name) => Place {
                    offset: place.offset,
                    key: Arc::from(format!("{key}.{name}")),
                    index: None,
                },
                None => place,
            };
            Some(Section::new(table, place))
        };
        array.iter().enumerate().filter_map(read).collect()
    }

    /// Reports that a key is missing, unless `found`.
    pub fn require<T>(
        &self,
        sink: &mut Sink<'_>,
        key: &'static str,
        expected: &str,
        found: Option<T>,
    ) -> Option<T> {
        let present = self.table.iter().any(|(k, _)| k.get_ref() == key);
        if found.is_none() && !present {
            sink.error(
                &self.place,
                format!("the key \"{key}\" is missing; expected {expected}"),
            );
        }
        found
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, sink: &mut Sink<'_>) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = Place {
                offset: Some(key.span().start),
                key: join(&self.place, name),
                index: None,
            };
            let near = self.known.iter().find(|known| distance(known, name) <= 2);
            let message = match near {
                Some(near) => format!("unknown key; did you mean \"{near}\"?"),
                None => format!("unknown key; expected one of {}", self.known.join(", ")),
            };
            sink.error(&place, message);
        }
    }
}

/// `text` as one of `words`.
pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let quoted: Vec<_> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let wanted = match quoted.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => quoted.join(""),
        };
        format!("expected {wanted}, found {text:?}")
    })
}

fn join(parent: &Place, key: &str) -> Arc<str> {
    let parent = parent.to_string();
    if parent.is_empty() {
        Arc::from(key)
    } else {
        Arc::from(format!("{parent}.{key}"))
    }
}

fn element(array: &Place, index: usize, item: Value<'_>) -> Place {
    Place {
        offset: Some(item.span().start),
        key: Arc::clone(&array.key),
        index: Some(index),
    }
}

fn elements<'a, T>(
    sink: &mut Sink<'_>,
    array: &'a DeArray<'a>,
    place: Place,
    parse: &impl Fn(&str) -> Result<T, String>,
) -> Listed<T> {
    let read = |(index, item): (usize, Value<'a>)| {
        parse_string(sink, item, element(&place, index, item), parse)
    };
    Listed {
        items: array.iter().enumerate().filter_map(read).collect(),
        written: array.len(),
        place,
    }
}

fn parse_string<T>(
    sink: &mut Sink<'_>,
    value: Value<'_>,
    place: Place,
    parse: &impl Fn(&str) -> Result<T, String>,
) -> Option<At<T>> {
    let parsed = match value.get_ref().as_str() {
        Some(text) => parse(text),
        None => Err(expected("a string", value.get_ref())),
    };
    match parsed {
        Ok(value) => Some(At { value, place }),
        Err(message) => {
            sink.error(&place, message);
            None
        }
    }
}

fn parse_integer(
    sink: &mut Sink<'_>,
    value: Value<'_>,
    place: &Place,
    range: &RangeInclusive<u64>,
) -> Option<u64> {
    let wanted = format!("an integer from {} to {}", range.start(), range.end());
    let Some(integer) = value.get_ref().as_integer() else {
        sink.error(place, expected(&wanted, value.get_ref()));
        return None;
    };
    let parsed = u64::from_str_radix(integer.as_str(), integer.radix());
    let found = parsed.ok().filter(|n| range.contains(n));
    if found.is_none() {
        sink.error(place, format!("expected {wanted}, found {integer}"));
    }
    found
}

/// Names the type that was found, never the value: it could be a secret.
fn expected(what: &str, found: &DeValue<'_>) -> String {
    let kind = found.type_str();
    let article = if kind.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("expected {what}, found {article} {kind}")
}

/// Whether a name can stand in a key path as it is.
fn is_plain(name: &str) -> bool {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '[' | ']');
    !name.is_empty() && name.len() <= 64 && name.chars().all(plain)
}

/// Edits between two keys (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != *y))
                .min(above + 1)
                .min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_between_keys() {
        for (a, b, expected) in [
            ("allow", "allow", 0),
            ("allow", "alow", 1),
            ("allow", "allows", 1),
            ("", "abc", 3),
            ("max_calls", "maxcall", 2),
            ("via", "uri", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
