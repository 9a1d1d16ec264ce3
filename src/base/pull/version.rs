//! Which versions a vendor publishes: read from a page or a list that names them.

use super::super::definition::VERSION;
use std::cmp::Ordering;

/// Longest version that is looked for.
const LONGEST: usize = 64;

/// What stands before and after the version; both are needed to find one.
pub fn sides(link: &str) -> Option<(&str, &str)> {
    link.split_once(VERSION).filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(VERSION))
}

/// Every version that the text names in the way of `link`, the newest last.
pub fn named(text: &str, link: &str) -> Vec<String> {
    let Some((before, after)) = sides(link) else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        rest = &rest[at + before.len()..];
        let version = rest.find(after).map(|end| &rest[..end]).filter(|v| is_version(v));
        if let Some(version) = version
            && !found.iter().any(|f| f == version)
        {
            found.push(version.to_owned());
        }
    }
    found.sort_by(|a, b| compare(a, b));
    found
}

/// It becomes part of an address, and of what is shown.
pub fn is_version(text: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '~');
    text.len() <= LONGEST
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(sound)
        && !text.contains("..")
}

/// The newest of those that are `wanted` or begin with it (`20250428` of `20250428-2096`). With nothing
/// wanted the newest of all.
pub fn chosen<'v>(versions: &'v [String], wanted: Option<&str>) -> Option<&'v String> {
    let Some(wanted) = wanted else { return versions.last() };
    let exact = versions.iter().find(|v| *v == wanted);
    let begins = |v: &&String| v.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(['.', '-', '_']));
    exact.or_else(|| versions.iter().rev().find(begins))
}

/// As people count: runs of digits are numbers.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    while let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) {
        let number = |text: &'_ str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (n, m) = (number(a), number(b));
        let order = match (n, m) {
            (0, _) | (_, 0) => x.cmp(&y),
            _ => {
                let (one, other) = (a[..n].trim_start_matches('0'), b[..m].trim_start_matches('0'));
                one.len().cmp(&other.len()).then_with(|| one.cmp(other))
            }
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (&a[n.max(1)..], &b[m.max(1)..]);
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_found_in_pages_and_lists() {
        let page = r#"<a href="../">up</a> <a href="20241125-1942/">20241125-1942/</a>
            <a href="daily/">daily/</a> <a href="20250428-2096/">2025..</a><a href="latest/">"#;
        let versions = named(page, r#""{version}/""#);
        assert_eq!(versions, ["20241125-1942", "20250428-2096"]);
        assert_eq!(chosen(&versions, None).unwrap(), "20250428-2096");
        assert_eq!(chosen(&versions, Some("20241125")).unwrap(), "20241125-1942");
        assert_eq!(chosen(&versions, Some("2024")), None);

        let list = "abc  al2023-kvm-2023.9.20251105.0-kernel-6.1-x86_64.xfs.gpt.qcow2\n";
        let link = "al2023-kvm-{version}-kernel-6.1-x86_64.xfs.gpt.qcow2";
        assert_eq!(named(list, link), ["2023.9.20251105.0"]);
        let list = "x-42-1.10.qcow2 x-42-1.9.qcow2 x-42-1.9.qcow2 x-../1.qcow2 x-.qcow2 x-";
        assert_eq!(named(list, "x-{version}.qcow2"), ["42-1.9", "42-1.10"]);
        assert_eq!(named("7/8/", "{version}/"), [""; 0]);
    }

    proptest! {
        /// Whatever a server sends.
        #[test]
        fn no_page_is_too_strange(page in ".{0,400}", link in "(\"|x)?\\{version\\}[/\"x]{1,2}") {
            for version in named(&page, &link) {
                prop_assert!(is_version(&version));
            }
        }

        #[test]
        fn versions_have_an_order(a in "[0-9.a-]{1,12}", b in "[0-9.a-]{1,12}", c in "[0-9.a-]{1,12}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
