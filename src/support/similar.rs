//! "Did you mean ...?"

/// The candidate that a typing error away from `wrong` is likeliest, or None when nothing is near.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer names are no typing errors; the distance costs time in the square.
    let short = |s: &str| s.chars().count() <= 128;
    if !short(wrong) {
        return None;
    }
    let allowed = (wrong.chars().count() / 3).clamp(1, 4);
    let wrong = folded(wrong);
    // What was not written to its end is near, too: `timeout` for `timeoutSeconds`.
    let begun = |c: &[char]| wrong.len() >= 4 && c.starts_with(&wrong);
    candidates
        .into_iter()
        .filter(|c| short(c))
        .map(|c| (folded(c), c))
        .map(|(f, c)| (if begun(&f) { 1 } else { distance(&wrong, &f) }, c))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Case and word separators do not make a word another.
fn folded(s: &str) -> Vec<char> {
    s.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// Insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn typing_errors_are_near_and_other_words_are_not() {
        let verbs = ["ExecuteBash", "ExecuteBinary", "CreateFile", "CreateFolder"];
        for (wrong, meant) in [
            ("executebash", Some("ExecuteBash")),
            ("ExecuteBahs", Some("ExecuteBash")),
            ("Create_File", Some("CreateFile")),
            ("Create", Some("CreateFile")),
            ("ExecutePython", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, verbs), meant, "{wrong}");
        }
        assert_eq!(nearest("acton", ["action", "name"]), Some("action"));
    }
}
