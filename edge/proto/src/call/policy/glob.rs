//! Wildcards: `*` stands for any run of characters, none included.

/// A pattern in which `*` matches any run of characters and everything else matches itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob {
    /// The literal text before, between and after the wildcards; never empty. One part: no wildcard.
    parts: Vec<String>,
}

impl Glob {
    /// Reads `pattern`; every text is a pattern.
    pub fn new(pattern: &str) -> Glob {
        Glob {
            parts: pattern.split('*').map(str::to_owned).collect(),
        }
    }

    /// Reads `pattern`, passing each literal part through `map` (unescaping, say) so that what `map` makes of it is never
    /// taken for a wildcard.
    pub fn try_map<E>(
        pattern: &str,
        map: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Glob, E> {
        let parts = pattern.split('*').map(map).collect::<Result<_, E>>()?;
        Ok(Glob { parts })
    }

    /// Whether the pattern is one text.
    pub fn is_exact(&self) -> bool {
        self.parts.len() == 1
    }

    /// Whether the pattern matches everything.
    pub fn is_any(&self) -> bool {
        self.parts.len() > 1 && self.parts.iter().all(String::is_empty)
    }

    /// Whether `text` matches from its first to its last character.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.parts.split_first() else {
            return text.is_empty();
        };
        let Some((last, between)) = rest.split_last() else {
            return text == first;
        };
        let inner = text
            .strip_prefix(first.as_str())
            .and_then(|t| t.strip_suffix(last.as_str()));
        let Some(mut inner) = inner else {
            return false;
        };
        // Taking the leftmost place of each part leaves the most for those behind it, so no backtracking is needed.
        for part in between {
            let Some((_, behind)) = inner.split_once(part.as_str()) else {
                return false;
            };
            inner = behind;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_stand_for_any_run() {
        for (pattern, text, expected) in [
            ("+1999*", "+1999", true),
            ("+1999*", "+19991", true),
            ("+1999*", "1999", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*99*", "199", true),
            ("*9*9", "19", false),
            ("a*b*c", "axbxbxc", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn what_the_map_makes_is_literal() {
        let glob = Glob::try_map("a%*", |part| Ok::<_, ()>(part.replace('%', "*"))).unwrap();
        assert!(glob.matches("a*b"));
        assert!(!glob.matches("axb"));
    }

    /// The textbook definition.
    fn reference(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), None) => reference(rest, text),
            (Some(('*', rest)), Some((_, behind))) => {
                reference(rest, text) || reference(pattern, behind)
            }
            (Some((p, rest)), Some((t, behind))) => p == t && reference(rest, behind),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&pattern).matches(&text), reference(&chars(&pattern), &chars(&text)));
        }
    }
}
